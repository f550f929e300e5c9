package gateway

import (
	"context"
	"fmt"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A service is the LLBBridge API of the builds that find returns.
type service struct {
	gwpb.UnimplementedLLBBridgeServer
	find func(context.Context) (*serving, error)
}

// Ping says what the daemon can do.
func (v *service) Ping(ctx context.Context, _ *gwpb.PingRequest) (*gwpb.PongResponse, error) {
	s, err := v.find(ctx)
	if err != nil {
		return nil, err
	}
	return &gwpb.PongResponse{FrontendAPICaps: frontendCaps(), LLBCaps: llbCaps(), Workers: s.Workers}, nil
}

// Evaluate builds a result.
func (v *service) Evaluate(ctx context.Context, req *gwpb.EvaluateRequest) (*gwpb.EvaluateResponse, error) {
	s, err := v.find(ctx)
	if err != nil {
		return nil, err
	}
	r, err := s.ref(req.GetRef())
	if err != nil {
		return nil, err
	}
	if r != nil {
		if err := r.Evaluate(ctx); err != nil {
			return nil, s.failed(err)
		}
	}
	return &gwpb.EvaluateResponse{}, nil
}

// readable returns a result that can be read: not scratch.
func (v *service) readable(ctx context.Context, id string) (*serving, frontend.Ref, error) {
	s, err := v.find(ctx)
	if err != nil {
		return nil, nil, err
	}
	r, err := s.ref(id)
	if err != nil {
		return nil, nil, err
	}
	if r == nil {
		return nil, nil, cerrdefs.ErrNotFound.WithMessage("the result is empty: it has no files")
	}
	return s, r, nil
}

// ReadFile reads a file of a result.
func (v *service) ReadFile(ctx context.Context, req *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	s, r, err := v.readable(ctx, req.GetRef())
	if err != nil {
		return nil, err
	}
	if err := checkRange(req); err != nil {
		return nil, err
	}
	data, err := r.ReadFile(ctx, req.GetFilePath(), req.GetRange().GetOffset(), req.GetRange().GetLength())
	if err != nil {
		return nil, s.failed(err)
	}
	return &gwpb.ReadFileResponse{Data: data}, nil
}

func checkRange(req *gwpb.ReadFileRequest) error {
	if req.GetRange().GetOffset() < 0 || req.GetRange().GetLength() < 0 {
		return cerrdefs.ErrInvalidArgument.WithMessage("read " + req.GetFilePath() + ": invalid range: offset and length must not be negative")
	}
	return nil
}

// ReadDir lists a directory of a result.
func (v *service) ReadDir(ctx context.Context, req *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	s, r, err := v.readable(ctx, req.GetRef())
	if err != nil {
		return nil, err
	}
	entries, err := r.ReadDir(ctx, req.GetDirPath(), req.GetIncludePattern())
	if err != nil {
		return nil, s.failed(err)
	}
	return &gwpb.ReadDirResponse{Entries: entries}, nil
}

// StatFile describes a file of a result.
func (v *service) StatFile(ctx context.Context, req *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	s, r, err := v.readable(ctx, req.GetRef())
	if err != nil {
		return nil, err
	}
	st, err := r.StatFile(ctx, req.GetPath())
	if err != nil {
		return nil, s.failed(err)
	}
	return &gwpb.StatFileResponse{Stat: st}, nil
}

// ResolveImageConfig returns the config of an image.
func (v *service) ResolveImageConfig(ctx context.Context, req *gwpb.ResolveImageConfigRequest) (*gwpb.ResolveImageConfigResponse, error) {
	s, err := v.find(ctx)
	if err != nil {
		return nil, err
	}
	b, err := s.Bridge.WithPolicies(req.GetSourcePolicies())
	if err != nil {
		return nil, err
	}
	opt := frontend.ResolveOpt{Platform: platform(req.GetPlatform()), Mode: req.GetResolveMode(), LogName: req.GetLogName()}
	if req.GetStoreID() != "" {
		opt.OCILayout = &frontend.OCILayout{SessionID: req.GetSessionID(), StoreID: req.GetStoreID()}
	}
	meta, err := b.ResolveImage(ctx, req.GetRef(), opt)
	if err != nil {
		return nil, err
	}
	// Clients put the digest behind the name themselves.
	ref, _, _ := strings.Cut(meta.Ref, "@")
	return &gwpb.ResolveImageConfigResponse{Digest: meta.Digest.String(), Config: meta.Config, Ref: ref}, nil
}

// ResolveSourceMeta says what a source means.
func (v *service) ResolveSourceMeta(ctx context.Context, req *gwpb.ResolveSourceMetaRequest) (*gwpb.ResolveSourceMetaResponse, error) {
	s, err := v.find(ctx)
	if err != nil {
		return nil, err
	}
	if id := req.GetSource().GetIdentifier(); !strings.Contains(id, "://") {
		return nil, cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("a source needs an identifier such as docker-image://name, not %.100q", id))
	}
	b, err := s.Bridge.WithPolicies(req.GetSourcePolicies())
	if err != nil {
		return nil, err
	}
	return b.ResolveSource(ctx, req)
}

func platform(p *pb.Platform) *ocispec.Platform {
	if p == nil {
		return nil
	}
	return &ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures}
}

// Inputs returns the definitions that were handed to the client's frontend.
func (v *service) Inputs(ctx context.Context, _ *gwpb.InputsRequest) (*gwpb.InputsResponse, error) {
	s, err := v.find(ctx)
	if err != nil {
		return nil, err
	}
	return &gwpb.InputsResponse{Definitions: s.Inputs}, nil
}

// Warn attaches a warning to a vertex.
func (v *service) Warn(ctx context.Context, req *gwpb.WarnRequest) (*gwpb.WarnResponse, error) {
	s, err := v.find(ctx)
	if err != nil {
		return nil, err
	}
	w := frontend.Warning{
		Vertex: digest.Digest(req.GetDigest()), Level: int(req.GetLevel()), Short: string(req.GetShort()),
		URL: req.GetUrl(), Source: req.GetInfo(), Ranges: req.GetRanges(),
	}
	for _, d := range req.GetDetail() {
		w.Detail = append(w.Detail, string(d))
	}
	s.Bridge.Warn(ctx, w)
	return &gwpb.WarnResponse{}, nil
}
