package gateway

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	apitypes "github.com/moby/buildkit/api/types"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

// A Build is what a frontend that runs elsewhere may use.
type Build struct {
	Bridge  frontend.Bridge
	Inputs  map[string]*pb.Definition
	Workers []*apitypes.WorkerRecord
}

// serving is a build whose frontend runs elsewhere.
type serving struct {
	Build
	done chan outcome // holds one

	// ctx ends when the frontend has: what it started ends with it.
	ctx   context.Context
	end   context.CancelCauseFunc
	calls sync.WaitGroup // that must have ended before containers are released for good

	mu         sync.Mutex
	refs       map[string]frontend.Ref
	containers map[string]*held
	last       int
	returned   bool             // something was sent to done
	final      *frontend.Result // what a frontend without Return solved last
	closed     bool
}

type outcome struct {
	res *frontend.Result
	err error
}

// errEnded is what calls get that come too late.
var errEnded = cerrdefs.ErrUnavailable.WithMessage("the build's frontend has ended")

func newServing(ctx context.Context, b Build) *serving {
	s := &serving{Build: b, done: make(chan outcome, 1), refs: map[string]frontend.Ref{}, containers: map[string]*held{}}
	s.ctx, s.end = context.WithCancelCause(ctx)
	return s
}

// close ends what the frontend started, and waits for it.
func (s *serving) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end(errEnded)
	s.calls.Wait()
	s.mu.Lock()
	containers := slices.Collect(maps.Values(s.containers))
	clear(s.containers)
	s.mu.Unlock()
	for _, c := range containers {
		if c == nil {
			continue // it was reserved by a call that panicked
		}
		_ = c.Release(context.WithoutCancel(s.ctx)) // nobody is left to tell
	}
}

// enter begins a call about containers. Its context ends with the frontend, and close waits
// until leave is called.
func (s *serving) enter(ctx context.Context) (_ context.Context, leave func(), _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, errEnded
	}
	s.calls.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	return ctx, func() {
		stop()
		cancel(nil)
		s.calls.Done()
	}, nil
}

// ref returns a result that was given out under id; the empty id is scratch.
func (s *serving) ref(id string) (frontend.Ref, error) {
	if id == "" {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.refs[id]
	if !ok {
		return nil, cerrdefs.ErrNotFound.WithMessage("no such result " + id)
	}
	return r, nil
}

// give makes r known to the client.
func (s *serving) give(r frontend.Ref) *gwpb.Ref {
	if r == nil {
		return &gwpb.Ref{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	id := fmt.Sprintf("ref-%d", s.last)
	s.refs[id] = r
	return &gwpb.Ref{Id: id, Def: r.Definition()}
}

// failed makes known to the client what a process that failed had seen.
func (s *serving) failed(err error) error {
	var results *frontend.FailedResults
	var solve *errdefs.SolveError
	if !errors.As(err, &results) || !errors.As(err, &solve) || solve.Solve == nil {
		return err
	}
	solve.InputIDs, solve.MountIDs = nil, nil
	for _, r := range results.Inputs {
		solve.InputIDs = append(solve.InputIDs, s.give(r).GetId())
	}
	for _, r := range results.Mounts {
		solve.MountIDs = append(solve.MountIDs, s.give(r).GetId())
	}
	return err
}

// finish ends the frontend with an outcome, once.
func (s *serving) finish(o outcome) error {
	s.mu.Lock()
	again := s.returned
	s.returned = true
	s.mu.Unlock()
	if again {
		return cerrdefs.ErrFailedPrecondition.WithMessage("the build has returned already")
	}
	s.done <- o
	return nil
}
