package policy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/llb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
)

// maxConversions is how often one source may be converted.
const maxConversions = 20

// maxIdentifier bounds what a source is called, in bytes: a conversion may repeat what it matches.
const maxIdentifier = 4096

// ErrDenied is what refused sources are, by errors.Is. The text is known to clients.
var ErrDenied = errors.New("source denied by policy")

// A Policy is what a build is subject to. The nil Policy permits everything. It is
// immutable.
type Policy struct {
	lists [][]*rule
	ask   *Verifier // nil: nobody
}

// New checks policies and puts them together. v, which may be nil, is asked about what the
// rules permit. Without rules and v the result is nil.
func New(policies []*spb.Policy, v *Verifier) (*Policy, error) {
	var p *Policy
	if v != nil {
		p = &Policy{ask: v}
	}
	return p.With(policies)
}

// With returns p with more policies, which come first.
func (p *Policy) With(policies []*spb.Policy) (*Policy, error) {
	var lists [][]*rule
	for _, pol := range policies {
		var list []*rule
		for _, r := range pol.GetRules() {
			checked, err := newRule(r)
			if err != nil {
				return nil, err
			}
			list = append(list, checked)
		}
		if len(list) > 0 {
			lists = append(lists, list)
		}
	}
	if len(lists) == 0 {
		return p, nil
	}
	out := &Policy{lists: lists}
	if p != nil {
		out.lists, out.ask = append(out.lists, p.lists...), p.ask
	}
	return out, nil
}

// A SourceError says which source of a graph the policy stopped at.
type SourceError struct {
	Vertex *llb.Vertex
	Err    error
}

func (e *SourceError) Error() string { return e.Err.Error() }
func (e *SourceError) Unwrap() error { return e.Err }

// Graph returns the definition of g with its sources as the policy wants them, or def,
// which it was loaded from, if they are so already. All sources are judged at the same time. It fails
// with a *SourceError.
func (p *Policy) Graph(ctx context.Context, g *llb.Graph, def *pb.Definition) (*pb.Definition, error) {
	if p == nil {
		return def, nil
	}
	sources := g.SourceOps()
	judged := make([]*pb.SourceOp, len(sources))
	group, ctx := errgroup.WithContext(ctx)
	for i, v := range sources {
		group.Go(func() (err error) {
			if judged[i], err = p.Source(ctx, v.Op.GetSource(), v.Op.Platform); err != nil {
				err = &SourceError{Vertex: v, Err: err}
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	changed := map[digest.Digest]*pb.SourceOp{}
	for i, v := range sources {
		if judged[i] != v.Op.GetSource() {
			changed[v.Digest] = judged[i]
		}
	}
	if len(changed) == 0 {
		return def, nil
	}
	return g.Replace(changed)
}

// Source returns what becomes of a source: op itself, or another one. It does not change op.
func (p *Policy) Source(ctx context.Context, op *pb.SourceOp, platform *pb.Platform) (*pb.SourceOp, error) {
	if p == nil {
		return op, nil
	}
	out, err := p.one(ctx, op, platform)
	if err != nil {
		return nil, err
	}
	// A bundle is where the bytes of a repository really come from.
	bundle := bundleOf(out)
	if bundle == nil {
		return out, nil
	}
	got, err := p.one(ctx, bundle, platform)
	if err != nil {
		return nil, err
	}
	if got == bundle {
		return out, nil
	}
	out = proto.CloneOf(out)
	out.Attrs[pb.AttrGitBundle] = got.Identifier
	for _, k := range []string{pb.AttrOCILayoutSessionID, pb.AttrOCILayoutStoreID} {
		if v := got.Attrs[k]; v != "" {
			out.Attrs[k] = v
		}
	}
	return out, nil
}

// bundleOf is the source of the bundle that a git source is made of, or nil.
func bundleOf(op *pb.SourceOp) *pb.SourceOp {
	id := op.Attrs[pb.AttrGitBundle]
	if id == "" || !strings.HasPrefix(op.Identifier, "git://") {
		return nil
	}
	bundle := &pb.SourceOp{Identifier: id}
	if rest, ok := strings.CutPrefix(id, "oci-layout+blob://"); ok {
		store := op.Attrs[pb.AttrOCILayoutStoreID]
		if store == "" {
			store, _, _ = strings.Cut(rest, "@")
		}
		bundle.Attrs = map[string]string{pb.AttrOCILayoutStoreID: store}
		if s := op.Attrs[pb.AttrOCILayoutSessionID]; s != "" {
			bundle.Attrs[pb.AttrOCILayoutSessionID] = s
		}
	}
	return bundle
}

// one judges one source.
func (p *Policy) one(ctx context.Context, op *pb.SourceOp, platform *pb.Platform) (*pb.SourceOp, error) {
	out, err := p.rules(op)
	if err != nil || p.ask == nil {
		return out, err
	}
	asked, err := p.ask.decide(ctx, out, platform)
	if err != nil || asked == out {
		return asked, err
	}
	// What the client made of it must still be permitted.
	again, err := p.rules(asked)
	if err == nil && again != asked {
		err = fmt.Errorf("%s: the rules of the source policy and the client convert it in different ways: %w", Shown(asked.Identifier), errdefs.ErrFailedPrecondition)
	}
	return asked, err
}

// rules applies the rules to a source.
func (p *Policy) rules(op *pb.SourceOp) (*pb.SourceOp, error) {
	for n := 0; ; n++ {
		if len(op.Identifier) > maxIdentifier && n > 0 {
			return nil, tooLong(len(op.Identifier))
		}
		id := canonical(op.Identifier)
		next := op
		for _, list := range p.lists {
			for _, r := range list {
				if r.Action == spb.PolicyAction_CONVERT && next == op && r.selects(id, op.Attrs) {
					var err error
					if next, err = r.convert(op, id); err != nil {
						return nil, err
					}
				}
			}
		}
		if next == op {
			return op, p.permit(id, op.Attrs)
		}
		if n == maxConversions {
			return nil, invalid("source policy: too many mutations on a single source, %s: too many operations", Shown(id))
		}
		op = next
	}
}

// permit reports whether a source may be used.
func (p *Policy) permit(id string, attrs map[string]string) error {
	for _, list := range p.lists {
		denied := false
		for _, r := range list {
			if r.Action != spb.PolicyAction_CONVERT && r.selects(id, attrs) {
				denied = r.Action == spb.PolicyAction_DENY
			}
		}
		if denied {
			return &deniedError{id: Shown(id)}
		}
	}
	return nil
}

// A deniedError says that the rules refuse a source.
type deniedError struct{ id string }

func (e *deniedError) Error() string { return fmt.Sprintf("%s: %v", e.id, ErrDenied) }

func (e *deniedError) Unwrap() []error { return []error{ErrDenied, errdefs.ErrPermissionDenied} }
