package daemon

import (
	"context"
	"errors"
	"strings"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/policy"
	"github.com/dbuild/dbuild/session"
	"github.com/dbuild/dbuild/source/git"
	"github.com/dbuild/dbuild/source/image"
	"github.com/dbuild/dbuild/worker"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
)

// policed is a build seen by a frontend that adds source policies to those of the build.
type policed struct {
	*build
	policy *policy.Policy
}

var _ frontend.Bridge = policed{}

// WithPolicies implements frontend.Bridge.
func (b *build) WithPolicies(more []*spb.Policy) (frontend.Bridge, error) {
	p, err := b.policy.With(more)
	if err != nil {
		return nil, err
	}
	if p == b.policy {
		return b, nil
	}
	return policed{b, p}, nil
}

// WithPolicies implements frontend.Bridge.
func (p policed) WithPolicies(more []*spb.Policy) (frontend.Bridge, error) {
	pol, err := p.policy.With(more)
	if err != nil {
		return nil, err
	}
	return policed{p.build, pol}, nil
}

// Solve implements frontend.Bridge.
func (p policed) Solve(ctx context.Context, def *pb.Definition) (frontend.Ref, error) {
	return p.solveUnder(ctx, p.policy, def)
}

// ResolveImage implements frontend.Bridge.
func (p policed) ResolveImage(ctx context.Context, name string, opt frontend.ResolveOpt) (*frontend.ImageMeta, error) {
	return p.resolveImageUnder(ctx, p.policy, name, opt)
}

// ResolveSource implements frontend.Bridge.
func (p policed) ResolveSource(ctx context.Context, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	return p.resolveSourceUnder(ctx, p.policy, req)
}

// policyOf puts the policies of a request together.
func (b *build) policyOf(r *request) (*policy.Policy, error) {
	var v *policy.Verifier
	if r.policySession != "" {
		v = &policy.Verifier{
			Resolve:  b.sourceMeta,
			Platform: pbPlatform(b.d.worker.Platforms[0]),
			Check: func(ctx context.Context, req *policysession.CheckPolicyRequest) (resp *policysession.CheckPolicyResponse, err error) {
				c, err := b.d.sessions.Get(ctx, r.policySession)
				if err != nil {
					return nil, err
				}
				err = b.d.sessions.With(ctx, c, func(ctx context.Context) error {
					resp, err = policysession.NewPolicyVerifierClient(c.Conn()).CheckPolicy(ctx, req)
					return err
				})
				return resp, err
			},
		}
	}
	var rules []*spb.Policy
	if r.policy != nil {
		rules = []*spb.Policy{r.policy}
	}
	return policy.New(rules, v)
}

// graph checks a definition and returns it, and its graph, with the sources that a policy
// wants. Its operations are known to the build from then on.
func (b *build) graph(ctx context.Context, p *policy.Policy, def *pb.Definition) (*pb.Definition, *llb.Graph, error) {
	g, err := llb.Load(def, llb.Limits{})
	if err != nil {
		return nil, nil, err
	}
	changed, err := p.Graph(ctx, g, def)
	if err != nil {
		var at *policy.SourceError
		if errors.As(err, &at) {
			err = placed(err, at.Vertex, g.Sources)
		}
		return nil, nil, err
	}
	if changed != def {
		if g, err = llb.Load(changed, llb.Limits{}); err != nil {
			return nil, nil, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, v := range g.Vertices {
		b.vertices[v.Digest] = origin{v, g.Sources}
	}
	return changed, g, nil
}

// asker looks names up for the build.
func (b *build) asker() worker.Asker {
	return worker.Asker{Group: b.group(), Pins: []*worker.Pins{&b.pins}}
}

func (b *build) resolveImageUnder(ctx context.Context, p *policy.Policy, name string, opt frontend.ResolveOpt) (_ *frontend.ImageMeta, err error) {
	if err := b.admit(ctx); err != nil {
		return nil, err
	}
	if opt.LogName == "" {
		opt.LogName = "[internal] load metadata for " + name
	}
	if p != nil {
		op := &pb.SourceOp{Identifier: "docker-image://" + name, Attrs: map[string]string{}}
		if l := opt.OCILayout; l != nil {
			op.Identifier = "oci-layout://" + name
			op.Attrs[pb.AttrOCILayoutSessionID], op.Attrs[pb.AttrOCILayoutStoreID] = l.SessionID, l.StoreID
		}
		if op, err = p.Source(ctx, op, platformOf(opt)); err != nil {
			return nil, err
		}
		if name, opt, err = converted(name, op, opt); err != nil {
			return nil, err
		}
	}
	log, done := b.step("resolve:"+name+opt.LogName, opt.LogName)
	defer func() { done(err) }()
	a := b.asker()
	a.Log = log
	return b.d.worker.ImageMeta(ctx, a, name, opt)
}

func platformOf(opt frontend.ResolveOpt) *pb.Platform {
	if opt.Platform == nil {
		return nil
	}
	return pbPlatform(*opt.Platform)
}

// converted is how to resolve what a policy has made of an image.
func converted(ref string, op *pb.SourceOp, opt frontend.ResolveOpt) (string, frontend.ResolveOpt, error) {
	scheme, name, _ := strings.Cut(op.Identifier, "://")
	switch scheme {
	case "docker-image":
		opt.OCILayout = nil
	case "oci-layout":
		opt.OCILayout = &frontend.OCILayout{SessionID: op.Attrs[pb.AttrOCILayoutSessionID], StoreID: op.Attrs[pb.AttrOCILayoutStoreID]}
	default:
		return "", opt, &frontend.NotImageError{Ref: ref, Source: policy.Shown(op.Identifier)}
	}
	return name, opt, nil
}

func (b *build) resolveSourceUnder(ctx context.Context, p *policy.Policy, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	if err := b.admit(ctx); err != nil {
		return nil, err
	}
	op, err := p.Source(ctx, req.GetSource(), req.GetPlatform())
	if err != nil {
		return nil, err
	}
	resp, err := b.sourceMeta(ctx, &gwpb.ResolveSourceMetaRequest{
		Source: op, Platform: req.GetPlatform(), LogName: req.GetLogName(), ResolveMode: req.GetResolveMode(),
		Git: req.GetGit(), Image: req.GetImage(), HTTP: req.GetHTTP(),
	})
	if err != nil {
		return nil, err
	}
	resp.Source = op
	return resp, nil
}

// sourceMeta finds out what a source means, whatever the policies say.
func (b *build) sourceMeta(ctx context.Context, req *gwpb.ResolveSourceMetaRequest) (_ *gwpb.ResolveSourceMetaResponse, err error) {
	name := req.GetLogName()
	if name == "" {
		name = "[internal] load metadata for " + policy.Shown(strings.TrimPrefix(req.GetSource().GetIdentifier(), "docker-image://"))
	}
	log, done := b.step("resolve:"+req.GetSource().GetIdentifier()+name, name)
	defer func() { done(err) }()
	a := b.asker()
	a.Log = log
	return b.d.worker.SourceMeta(ctx, a, req)
}

// bundles opens the bundles of git repositories, which are blobs.
func bundles(images *image.Source) func(context.Context, session.Group, git.Request) (git.Bundle, error) {
	return func(ctx context.Context, g session.Group, req git.Request) (git.Bundle, error) {
		blob, err := image.ParseBlob(req.Bundle, image.Layout{SessionID: req.BundleSession, StoreID: req.BundleStore})
		if err != nil {
			return git.Bundle{}, err
		}
		r, _, err := images.OpenBlob(ctx, g, blob)
		return git.Bundle{ReadCloser: r, Digest: blob.Digest}, err
	}
}
