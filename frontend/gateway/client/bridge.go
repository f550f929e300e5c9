package client

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/util/apicaps"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
)

// A bridge asks a builder over LLBBridge. What the builder does not say it can do it is not
// asked for.
type bridge struct {
	c    gwpb.LLBBridgeClient
	caps apicaps.CapSet
	// limits says that the builder enforces llb.RunLimits.
	limits bool
	env    Environment
	log    io.Writer
	// policies are sent with every question that may have some.
	policies []*spb.Policy
	// caches are those that the builder is asked to look into; shared by all bridges of a run.
	caches *caches
}

type caches struct {
	mu      sync.Mutex
	entries []*gwpb.CacheOptionsEntry
}

// ImportCache implements frontend.Bridge: the caches go with what is solved from now on.
func (b *bridge) ImportCache(entries ...frontend.CacheEntry) {
	if b.supports(gwpb.CapImportCaches) != nil {
		return
	}
	b.caches.mu.Lock()
	defer b.caches.mu.Unlock()
	for _, e := range entries {
		b.caches.entries = append(b.caches.entries, &gwpb.CacheOptionsEntry{Type: e.Type, Attrs: e.Attrs})
	}
}

var _ frontend.Bridge = (*bridge)(nil)

// EnforcesLimits says whether the builder does what llb.RunLimits say.
func (b *bridge) EnforcesLimits() bool { return b.limits }

// Solve implements frontend.Bridge.
func (b *bridge) Solve(ctx context.Context, def *pb.Definition) (frontend.Ref, error) {
	res, err := b.request(ctx, &gwpb.SolveRequest{Definition: def})
	if err != nil || res.Ref == nil {
		return nil, err
	}
	return res.Ref, nil
}

// SolveFrontend implements frontend.Bridge.
func (b *bridge) SolveFrontend(ctx context.Context, name string, req *frontend.Request) (*frontend.Result, error) {
	r := &gwpb.SolveRequest{Frontend: name, FrontendOpt: req.Opts}
	if len(req.Inputs) > 0 {
		if err := b.supports(gwpb.CapFrontendInputs); err != nil {
			return nil, err
		}
		r.FrontendInputs = req.Inputs
	}
	return b.request(ctx, r)
}

func (b *bridge) request(ctx context.Context, req *gwpb.SolveRequest) (*frontend.Result, error) {
	req.AllowResultReturn = true
	req.SourcePolicies = b.policies
	b.caches.mu.Lock()
	req.CacheImports = slices.Clone(b.caches.entries)
	b.caches.mu.Unlock()
	req.AllowResultArrayRef = b.supports(gwpb.CapProtoRefArray) == nil
	resp, err := b.c.Solve(ctx, req)
	if err != nil {
		return nil, err
	}
	return b.result(resp.GetResult(), req.GetDefinition())
}

// ResolveImage implements frontend.Bridge.
func (b *bridge) ResolveImage(ctx context.Context, ref string, opt frontend.ResolveOpt) (*frontend.ImageMeta, error) {
	req := &gwpb.ResolveImageConfigRequest{Ref: ref, LogName: opt.LogName, Platform: wirePlatform(opt.Platform), SourcePolicies: b.policies}
	if b.supports(gwpb.CapResolveImageResolveMode) == nil {
		req.ResolveMode = opt.Mode
	}
	if opt.OCILayout != nil {
		req.ResolverType, req.SessionID, req.StoreID = 1, opt.OCILayout.SessionID, opt.OCILayout.StoreID
	}
	resp, err := b.c.ResolveImageConfig(ctx, req)
	if err != nil {
		return nil, err
	}
	meta := &frontend.ImageMeta{Ref: resp.GetRef(), Digest: digest.Digest(resp.GetDigest()), Config: resp.GetConfig()}
	if meta.Ref == "" { // older builders say the digest only
		meta.Ref = ref
	}
	if meta.Digest != "" && !strings.Contains(meta.Ref, "@") {
		meta.Ref += "@" + meta.Digest.String()
	}
	return meta, nil
}

// ResolveSource implements frontend.Bridge.
func (b *bridge) ResolveSource(ctx context.Context, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	if err := b.supports(gwpb.CapSourceMetaResolver); err != nil {
		return nil, err
	}
	req = proto.CloneOf(req)
	req.SourcePolicies = b.policies
	return b.c.ResolveSourceMeta(ctx, req)
}

// WithPolicies implements frontend.Bridge. The builder finds out if they are valid.
func (b *bridge) WithPolicies(p []*spb.Policy) (frontend.Bridge, error) {
	under := *b
	under.policies = slices.Concat(b.policies, p)
	return &under, nil
}

func wirePlatform(p *ocispec.Platform) *pb.Platform {
	if p == nil {
		return nil
	}
	return &pb.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures}
}

// Warn implements frontend.Bridge.
func (b *bridge) Warn(ctx context.Context, w frontend.Warning) {
	if b.supports(gwpb.CapGatewayWarnings) != nil {
		fmt.Fprintln(b.log, "warning:", w.Short)
		return
	}
	req := &gwpb.WarnRequest{
		Digest: w.Vertex.String(), Level: int64(w.Level), Short: []byte(w.Short), Url: w.URL, Info: w.Source, Ranges: w.Ranges,
	}
	for _, d := range w.Detail {
		req.Detail = append(req.Detail, []byte(d))
	}
	if _, err := b.c.Warn(ctx, req); err != nil {
		fmt.Fprintln(b.log, "warning:", w.Short)
	}
}

// Log implements frontend.Bridge.
func (b *bridge) Log(string) io.WriteCloser { return logWriter{b.log} }

type logWriter struct{ io.Writer }

func (logWriter) Close() error { return nil }

// Platforms implements frontend.Bridge.
func (b *bridge) Platforms() []ocispec.Platform { return b.env.Platforms }

// NewContainer implements frontend.Bridge.
func (b *bridge) NewContainer(context.Context, frontend.ContainerRequest) (frontend.Container, error) {
	return nil, cerrdefs.ErrNotImplemented.WithMessage("not implemented: containers of a frontend that runs in a container")
}
