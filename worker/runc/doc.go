// Package runc runs the commands of a build in containers.
//
// An [Executor] has three parts. The package network gives a step its network namespace,
// rootfs looks up users and makes mount points in its root file system, and a runtime makes
// the container from an OCI configuration written by spec. The runtime is runc's
// libcontainer, linked in and driven through a small process of its own (see launcher),
// or a runc or crun command if [Config].Runtime names one.
//
// Nothing of a step outlives Run: its processes, cgroups, network namespace, mounts and
// files are gone when it returns. What a daemon that was killed left is removed by Sweep,
// which the next one calls first.
package runc
