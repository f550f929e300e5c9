package lockfile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
)

// A Session decides for one build what its sources are. The daemon asks it about each before
// it is fetched.
type Session struct {
	missing string // what is wrong with a source that is not locked; "" if it is to be

	mu   sync.Mutex
	file *File
	used map[string]bool
}

// Enforce returns a Session that pins each source to what f says and refuses those that f
// does not name, with a reason.
func Enforce(f *File, reason string) *Session {
	return &Session{missing: reason, file: f, used: map[string]bool{}}
}

// Extend returns a Session that pins each source to what f says, and those that f does not
// name to what they are now, which it remembers.
func Extend(f *File) *Session {
	return &Session{file: &File{pins: maps.Clone(f.pins)}, used: map[string]bool{}}
}

// Provider serves the daemon.
func (s *Session) Provider() *policysession.PolicyProvider {
	return policysession.NewPolicyProvider(s.decide)
}

// File returns the lock as it is now.
func (s *Session) File() *File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &File{pins: maps.Clone(s.file.pins)}
}

// Unused are the names in the lock of which the build has had no need so far, as people
// write them.
func (s *Session) Unused() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, id := range s.file.Names() {
		if !s.used[id] {
			out = append(out, Shown(id))
		}
	}
	return out
}

var allowed = &policysession.DecisionResponse{Action: spb.PolicyAction_ALLOW}

// decide answers one question: with what becomes of the source, or with what must be found
// out about it first.
func (s *Session) decide(_ context.Context, req *policysession.CheckPolicyRequest) (*policysession.DecisionResponse, *gwpb.ResolveSourceMetaRequest, error) {
	op := req.GetSource().GetSource()
	if !locks(op.GetIdentifier()) || isPinned(op) {
		return allowed, nil, nil
	}
	name := nameOf(op.Identifier)
	s.mu.Lock()
	defer s.mu.Unlock()
	to, ok := s.file.pins[name]
	if !ok && s.missing != "" {
		return &policysession.DecisionResponse{
			Action: spb.PolicyAction_DENY, DenyMessages: []*policysession.DenyMessage{{Message: s.missing}},
		}, nil, nil
	}
	if !ok {
		if req.Source.Image == nil && req.Source.Git == nil && req.Source.HTTP == nil {
			return nil, &gwpb.ResolveSourceMetaRequest{
				Source: op, Platform: req.Platform, Image: &gwpb.ResolveSourceImageRequest{NoConfig: true},
			}, nil
		}
		var err error
		if to, err = pinOf(req.Source); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", Shown(op.Identifier), err)
		}
		s.file.pins[name] = to
	}
	s.used[name] = true
	return &policysession.DecisionResponse{Action: spb.PolicyAction_CONVERT, Update: to.apply(op)}, nil, nil
}

// Forget returns f without some names.
func (f *File) Forget(names []string) *File {
	out := &File{pins: maps.Clone(f.pins)}
	maps.DeleteFunc(out.pins, func(name string, _ pin) bool { return slices.Contains(names, name) })
	return out
}
