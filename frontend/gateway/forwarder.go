package gateway

import (
	"context"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"google.golang.org/grpc/metadata"
)

// buildIDKey is the metadata that names the build a call belongs to.
const buildIDKey = "buildkit-controlapi-buildid"

// waitForBuild is how long a call waits for its build to arrive.
const waitForBuild = 3 * time.Second

// A Forwarder is the LLBBridge service of a daemon.
type Forwarder struct {
	service

	mu     sync.Mutex
	builds map[string]*serving
	added  chan struct{} // closed and replaced when a build is added
}

// NewForwarder returns a Forwarder without builds.
func NewForwarder() *Forwarder {
	f := &Forwarder{builds: map[string]*serving{}, added: make(chan struct{})}
	f.find = f.named
	return f
}

// Serve lets the client with this build id use b until it returns a result.
func (f *Forwarder) Serve(ctx context.Context, id string, b Build) (*frontend.Result, error) {
	s := newServing(ctx, b)
	f.mu.Lock()
	if _, ok := f.builds[id]; ok {
		f.mu.Unlock()
		return nil, cerrdefs.ErrAlreadyExists.WithMessage("a build with the ref " + id + " is running")
	}
	f.builds[id] = s
	close(f.added)
	f.added = make(chan struct{})
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.builds, id)
		f.mu.Unlock()
		s.close()
	}()
	select {
	case o := <-s.done:
		return o.res, o.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// named returns the build that a call names.
func (f *Forwarder) named(ctx context.Context) (*serving, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	ids := md.Get(buildIDKey)
	if len(ids) != 1 || ids[0] == "" {
		return nil, cerrdefs.ErrInvalidArgument.WithMessage("no buildid found in context: the call does not say which build it belongs to")
	}
	timeout := time.NewTimer(waitForBuild)
	defer timeout.Stop()
	for {
		f.mu.Lock()
		s, added := f.builds[ids[0]], f.added
		f.mu.Unlock()
		if s != nil {
			return s, nil
		}
		select {
		case <-added:
		case <-timeout.C:
			return nil, cerrdefs.ErrNotFound.WithMessage("no such job " + ids[0])
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}
