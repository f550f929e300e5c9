package frontend

import (
	"context"
	"io"
	"syscall"

	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// A ContainerRequest describes a container that a frontend starts processes in. Whoever
// passes it on has checked nothing: it may come from another machine.
type ContainerRequest struct {
	Mounts      []ContainerMount // one of them at /
	Network     pb.NetMode
	Hostname    string
	ExtraHosts  []*pb.HostIP
	Platform    *ocispec.Platform // nil: the daemon's own
	Constraints *pb.WorkerConstraints
}

// A ContainerMount is a mount as operations have them, with what it shows beside it: its
// Input, Output and ResultID mean nothing. A nil Ref is an empty filesystem.
type ContainerMount struct {
	*pb.Mount
	Ref Ref
	// Files makes the mount a read-only directory of these files instead, by name.
	Files map[string][]byte
}

// A Container is where a frontend runs processes, outside of the graph and the cache. What
// they write to its mounts is thrown away with it, except in cache mounts.
type Container interface {
	// Start starts a process. The first is the container's main process: the others end
	// with it, and the container with it is over. ctx is about the start only. Once Start
	// has been called, Stdin, Stdout and Stderr belong to the container, also if it fails.
	Start(ctx context.Context, p Process) (Running, error)
	// ReadFile, ReadDir and StatFile are those of Ref. They read what the container sees at
	// mount, an index into the request's Mounts, while it exists, also before its first
	// process and after its last.
	ReadFile(ctx context.Context, mount int, path string, offset, length int64) ([]byte, error)
	ReadDir(ctx context.Context, mount int, path, includePattern string) ([]*fstypes.Stat, error)
	StatFile(ctx context.Context, mount int, path string) (*fstypes.Stat, error)
	// Release kills what runs, waits for it and removes the container. It can be called
	// again. The end of the build does the same.
	Release(ctx context.Context) error
}

// A Process is what is run in a container. With Tty its Stdin and Stdout are those of a
// terminal, and Stderr is not used. Nil streams are empty, or thrown away.
type Process struct {
	Meta      *pb.Meta
	Security  pb.SecurityMode
	SecretEnv []*pb.SecretEnv
	Tty       bool

	Stdin          io.ReadCloser
	Stdout, Stderr io.WriteCloser
}

// Running is a process that has been started.
type Running interface {
	Resize(ctx context.Context, rows, cols uint32) error
	Signal(context.Context, syscall.Signal) error
	// Wait returns when the process has ended, all that it wrote has been passed on and its
	// streams are closed. The error is nil if it exited with 0, and wraps an Exit if it
	// ended otherwise.
	Wait() error
}

// Exit is implemented by errors that say with what status a process ended: 128 and the
// number of the signal if one killed it.
type Exit interface {
	error
	ExitCode() int
}

// FailedResults is in the chain of the error of a process of the graph that failed: what it
// saw can be looked at in a container until the build ends. Where a client may do that, the
// errdefs.SolveError in the same chain, which belongs to this error alone, gets their ids.
type FailedResults struct {
	Err    error
	Inputs []Ref // of the operation, by index; nil is an empty filesystem
	Mounts []Ref // as the process left them, by index; nil for those that cannot be shown
}

func (e *FailedResults) Error() string { return e.Err.Error() }

// Unwrap returns what failed.
func (e *FailedResults) Unwrap() error { return e.Err }
