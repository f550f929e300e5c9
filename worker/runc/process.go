package runc

import (
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/moby/buildkit/solver/pb"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/dbuild/dbuild/worker/runc/usage"
)

// A Process is one command to be run in one container. All paths are the daemon's
// unless said otherwise. The rootfs is already mounted; the executor creates mount
// points in it that are missing and removes those it created, unless something was
// put there.
type Process struct {
	ID           string // unique for each run; names the container, its cgroup and its files
	Rootfs       string // mounted directory
	ReadOnly     bool   // of the root filesystem
	Mounts       []Mount
	Args         []string
	Env          []string // PATH is added if missing
	Cwd          string   // in the container; created if missing
	User         string   // as in a Dockerfile: name or uid[:group or gid], looked up in the rootfs
	Hostname     string   // default "buildkitsandbox"
	ExtraHosts   []HostIP
	Ulimits      []*pb.Ulimit
	CgroupParent string
	Network      pb.NetMode
	Proxy        *Proxy // nil: the process uses its network itself
	Security     pb.SecurityMode
	Resources    *pb.LinuxResources

	Stdin          io.Reader // nil: an empty stdin
	Stdout, Stderr io.Writer
	// Terminal gives the process a terminal, which is written to Stdout and reads Stdin.
	Terminal bool
	// Edit changes the container before it is made, if not nil. What it mounts gets mount
	// points as well.
	Edit func(*specs.Spec) error
	// Timeout, if not zero, is how long the container may run. Then all its processes get
	// SIGTERM, and after Grace those that are left SIGKILL; the error is ErrTimeout.
	Timeout, Grace time.Duration
	// Measured, if not nil, gets samples of what the process used of the machine, with its
	// children, before the run ends; there is always one of the end.
	Measured func([]usage.Sample)
	// RemoveStubsRecursive also removes the parent directories made for mount points.
	RemoveStubsRecursive bool
}

// HostIP is a line of /etc/hosts.
type HostIP struct {
	Host string
	IP   netip.Addr
}

// A Mount is put into the container, in order of Target depth as given. Type is
// "bind" (Source is a directory or a file of the host) or "tmpfs" (Size bytes, 0
// for no limit). Mode (default 1777), UID and GID apply to tmpfs.
type Mount struct {
	Type     string
	Source   string
	Target   string
	ReadOnly bool
	Size     int64
	Mode     uint32
	UID, GID uint32
}

// An ExitError says how a process ended if not with status 0.
type ExitError struct {
	Code      int  // 128+signal if it was killed
	OOMKilled bool // the memory limit was hit
}

func (e *ExitError) Error() string {
	text := fmt.Sprintf("exit code: %d", e.Code)
	name := unix.SignalName(unix.Signal(e.Code - 128))
	switch {
	case e.OOMKilled:
		text += " (out of memory: it was killed at its limit; --memory sets that)"
	case e.Code == 128+int(unix.SIGKILL):
		text += " (killed by SIGKILL; if nobody sent it, the machine ran out of memory)"
	case e.Code > 128 && name != "":
		text += " (ended by " + name + ")"
	}
	return text
}

// ExitCode returns Code.
func (e *ExitError) ExitCode() int { return e.Code }
