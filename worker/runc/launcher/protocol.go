package launcher

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// A Request asks for one container, or for one more process in a container that runs.
type Request struct {
	ID string // names the container; [A-Za-z0-9_.+-]
	// StateDir is a directory for what is known of the container while it lives. It is used
	// only if the launcher cannot keep that in memory.
	StateDir string
	// Spec is what to run, without seccomp rules. A container that is to run further
	// processes has them: libcontainer gives each process those of its container.
	Spec *specs.Spec
	// Exec is a process for a container that was asked for with Watch; then only ID counts
	// besides. A process with a terminal has the socket that receives the terminal as its
	// standard input.
	Exec *specs.Process
	// Watch asks for an event when the command runs. From then on it can be sent signals.
	Watch bool

	// Seccomp is the profile, as for [Profile]; none if empty.
	Seccomp string

	// Rootless says that the daemon itself runs in a user namespace: limits that
	// cannot be set are ignored.
	Rootless bool
}

// An Event is what the launcher says about a process: that its command runs if Result is
// nil, else how it ended.
type Event struct{ Result *Result }

// A Command is what a client says about a process that runs.
type Command struct{ Signal int }

// A Result says how a process ended. Exactly one of Err and Code is meaningful: Err
// is not empty if the command never started.
type Result struct {
	Err       string
	Code      int    // exit status, or 128+signal
	OOMKilled bool   // the kernel killed a process for its cgroup's memory limit
	Leftover  string // what could not be removed afterwards, empty if nothing
}

// Hello is what a launcher says about itself.
type Hello struct {
	Runc    string // version of libcontainer
	Seccomp string // version of libseccomp, empty if built without it
}

const (
	// argv0 is how a process knows that it was started as a launcher.
	argv0 = "dbuild-launcher"
	// controlFD is the launcher's end of the control socket.
	controlFD = 3
	// filterFD is the container init's end of the socket over which it gets its filter.
	filterFD = 3
	// initPipeEnv is set by libcontainer for its init and for nothing else.
	initPipeEnv = "_LIBCONTAINER_INITPIPE"
)
