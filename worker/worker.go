package worker

import (
	"context"

	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/source/git"
	"github.com/dbuild/dbuild/source/http"
	"github.com/dbuild/dbuild/source/image"
	"github.com/dbuild/dbuild/source/local"
	"github.com/dbuild/dbuild/worker/device"
	"github.com/dbuild/dbuild/worker/runc"
	bksession "github.com/moby/buildkit/session"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
)

// An Executor runs processes in containers, see runc.Executor.
type Executor interface {
	Run(context.Context, runc.Process) error
	Start(context.Context, runc.Process) (*runc.Running, error)
	Exec(ctx context.Context, container string, p runc.Process) (*runc.Running, error)
}

// Config is what a Worker is made of.
type Config struct {
	Root        string // directory for files of running steps; required
	Store       *snapshot.Store
	Executor    Executor
	Sessions    *session.Manager
	Images      *image.Source
	Locals      *local.Source
	HTTP        *http.Source
	Git         *git.Source
	Platforms   []ocispec.Platform // the native one first
	Parallelism int                // processes at once; 0 means no limit
	Devices     *device.Devices    // of this machine, for steps; nil gives them none
}

// A Worker runs operations on this machine.
type Worker struct {
	Config
	processes *semaphore.Weighted // nil: no limit
}

// A Client is what the Value of a solver.Job must be: whoever asked for the build.
type Client interface {
	// Sessions are the ids of those that lend files and credentials to the build.
	Sessions() []string
	// Pins are what the build knows of mutable names.
	Pins() *Pins
	// Eager says that images are to be read when they are named, and not when needed.
	Eager() bool
	// Blobs is how the build will want new layers compressed, or ok false if it exports
	// none.
	Blobs() (c snapshot.Compression, ok bool)
}

// New returns a Worker.
func New(cfg Config) *Worker {
	w := &Worker{Config: cfg}
	if cfg.Parallelism > 0 {
		w.processes = semaphore.NewWeighted(int64(cfg.Parallelism))
	}
	return w
}

// group is the sessions of the jobs behind a demand, as they are when asked.
type group struct{ d solver.Demand }

func (g group) SessionIterator() bksession.Iterator {
	var ids []string
	for j := range g.d.Jobs() {
		if c, ok := j.Value().(Client); ok {
			ids = append(ids, c.Sessions()...)
		}
	}
	return bksession.NewGroup(ids...).SessionIterator()
}

func (w *Worker) access(d solver.Demand) snapshot.Access {
	return snapshot.Access{Group: group{d}, Log: d.Log()}
}

// warm begins to compress a new layer if a build will want it: while later steps run
// the processors are often idle.
func (w *Worker) warm(d solver.Demand, s *snapshot.Ref) {
	for j := range d.Jobs() {
		c, ok := j.Value().(Client)
		if !ok {
			continue
		}
		if kind, ok := c.Blobs(); ok {
			s.Warm(kind)
			return
		}
	}
}
