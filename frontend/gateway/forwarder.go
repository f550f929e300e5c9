// Package gateway serves BuildKit's LLBBridge API: a frontend that runs elsewhere, in
// the client, talks to the Bridge of its build over it.
//
// A Forwarder is one service for all builds of a daemon; each call names its build in
// metadata. A client may call before its build has arrived, so calls wait a little.
package gateway

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	apitypes "github.com/moby/buildkit/api/types"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// buildIDKey is the metadata that names the build a call belongs to.
const buildIDKey = "buildkit-controlapi-buildid"

// waitForBuild is how long a call waits for its build to arrive.
const waitForBuild = 3 * time.Second

// A Build is what a frontend in the client may use.
type Build struct {
	Bridge frontend.Bridge
	// Frontend runs a frontend of the daemon by its name.
	Frontend func(ctx context.Context, name string, req *frontend.Request) (*frontend.Result, error)
	Opts     map[string]string
	Inputs   map[string]*pb.Definition
	Workers  []*apitypes.WorkerRecord
}

// A Forwarder is the LLBBridge service of a daemon.
type Forwarder struct {
	gwpb.UnimplementedLLBBridgeServer

	mu     sync.Mutex
	builds map[string]*serving
	added  chan struct{} // closed and replaced when a build is added
}

// serving is a build whose frontend runs in the client.
type serving struct {
	Build
	done chan outcome // holds one

	mu       sync.Mutex
	refs     map[string]frontend.Ref
	last     int
	returned bool // something was sent to done
}

type outcome struct {
	res *frontend.Result
	err error
}

// NewForwarder returns a Forwarder without builds.
func NewForwarder() *Forwarder {
	return &Forwarder{builds: map[string]*serving{}, added: make(chan struct{})}
}

// Serve lets the client with this build id use b until it returns a result.
func (f *Forwarder) Serve(ctx context.Context, id string, b Build) (*frontend.Result, error) {
	s := &serving{Build: b, done: make(chan outcome, 1), refs: map[string]frontend.Ref{}}
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
		defer f.mu.Unlock()
		delete(f.builds, id)
	}()
	select {
	case o := <-s.done:
		return o.res, o.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// find returns the build that a call belongs to.
func (f *Forwarder) find(ctx context.Context) (*serving, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	ids := md.Get(buildIDKey)
	if len(ids) != 1 || ids[0] == "" {
		return nil, cerrdefs.ErrInvalidArgument.WithMessage("the call does not say which build it belongs to")
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

// readable returns a result that can be read: not scratch.
func (f *Forwarder) readable(ctx context.Context, id string) (frontend.Ref, error) {
	s, err := f.find(ctx)
	if err != nil {
		return nil, err
	}
	r, err := s.ref(id)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, cerrdefs.ErrNotFound.WithMessage("the result is empty: it has no files")
	}
	return r, nil
}

// Return ends the client's frontend with a result or an error.
func (f *Forwarder) Return(ctx context.Context, req *gwpb.ReturnRequest) (*gwpb.ReturnResponse, error) {
	s, err := f.find(ctx)
	if err != nil {
		return nil, err
	}
	var o outcome
	if e := req.GetError(); e != nil {
		o.err = returnedError(e)
	} else {
		o.res, o.err = s.result(req.GetResult())
	}
	s.mu.Lock()
	again := s.returned
	s.returned = true
	s.mu.Unlock()
	if again {
		return nil, cerrdefs.ErrFailedPrecondition.WithMessage("the build has returned already")
	}
	s.done <- o
	return &gwpb.ReturnResponse{}, nil
}

// returnedError is the error that a client's frontend ended with. One without a code is
// an error all the same.
func returnedError(e *spb.Status) error {
	if err := status.ErrorProto(e); err != nil {
		return err
	}
	return status.Error(codes.Unknown, cmp.Or(e.GetMessage(), "the frontend failed and did not say why"))
}

// result turns what a client returns into refs it was given before.
func (s *serving) result(r *gwpb.Result) (*frontend.Result, error) {
	out := &frontend.Result{Metadata: r.GetMetadata()}
	if out.Metadata == nil {
		out.Metadata = map[string][]byte{}
	}
	if len(r.GetAttestations()) > 0 {
		return nil, cerrdefs.ErrNotImplemented.WithMessage("not implemented: attestations")
	}
	ids := map[string]string{}
	single := ""
	switch x := r.GetResult().(type) {
	case *gwpb.Result_RefDeprecated:
		single = x.RefDeprecated
	case *gwpb.Result_Ref:
		single = x.Ref.GetId()
	case *gwpb.Result_RefsDeprecated:
		ids = x.RefsDeprecated.GetRefs()
	case *gwpb.Result_Refs:
		for k, v := range x.Refs.GetRefs() {
			ids[k] = v.GetId()
		}
	}
	var err error
	if out.Ref, err = s.ref(single); err != nil {
		return nil, err
	}
	for k, id := range ids {
		if out.Refs == nil {
			out.Refs = map[string]frontend.Ref{}
		}
		if out.Refs[k], err = s.ref(id); err != nil {
			return nil, err
		}
	}
	return out, nil
}
