// Package launcher makes containers from a small process of its own.
//
// libcontainer creates a container by executing the running program anew inside fresh
// namespaces. For a daemon of many megabytes that costs a sealed copy of its file and
// the start of all its packages for each step. The launcher is therefore another
// process, made once from a small program (worker/runc/init) that lives in a sealed
// memory file, so that libcontainer can execute it as it is; where that program is not
// built in, the daemon's own binary serves as the launcher.
//
//	daemon                      launcher                     container
//	Client ──control socket──▶ server
//	  Run ───one socket each──▶ serve ──libcontainer──▶ init ─▶ the command
//
// The control socket carries, for each container, a socket of its own and the three
// standard files. On that socket travel the [Request], then an [Event] with the [Result].
// Whoever closes it kills the container: a daemon that dies takes its containers with it,
// and the launcher removes what they left before it ends. Who asked to watch is also told
// when the command runs, may send a [Command] then, and may ask in the same way for
// further processes in the container.
//
// # Seccomp
//
// libcontainer compiles the seccomp profile in each container's init, which takes
// 20 to 26 ms for the default profile. The launcher compiles it once for each set of
// capabilities and gives the container a configuration without one. When libcontainer's
// init has done all its work and waits to be told to execute the command, a second
// thread in it, started by [Init], receives the finished filter and installs it for all
// threads (SECCOMP_FILTER_FLAG_TSYNC). A container whose filter was not confirmed is
// killed before its command starts.
//
// A further process executes its command without waiting for anybody, so that this cannot
// be done for it: containers that may get some have a profile that libcontainer compiles.
package launcher
