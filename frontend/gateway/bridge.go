package gateway

import (
	"context"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Ping says what the daemon can do.
func (f *Forwarder) Ping(ctx context.Context, _ *gwpb.PingRequest) (*gwpb.PongResponse, error) {
	s, err := f.find(ctx)
	if err != nil {
		return nil, err
	}
	return &gwpb.PongResponse{FrontendAPICaps: frontendCaps(), LLBCaps: llbCaps(), Workers: s.Workers}, nil
}

// Solve makes results of a definition or by a frontend of the daemon.
func (f *Forwarder) Solve(ctx context.Context, req *gwpb.SolveRequest) (*gwpb.SolveResponse, error) {
	s, err := f.find(ctx)
	if err != nil {
		return nil, err
	}
	var res *frontend.Result
	switch {
	case req.GetFrontend() != "":
		// Results are lazy: the call ends before anything is built.
		res, err = s.Frontend(ctx, req.GetFrontend(), &frontend.Request{Opts: req.GetFrontendOpt(), Inputs: req.GetFrontendInputs()})
	case len(req.GetDefinition().GetDef()) > 0:
		res = &frontend.Result{}
		res.Ref, err = s.Bridge.Solve(ctx, req.GetDefinition())
	default:
		res = &frontend.Result{}
	}
	if err != nil {
		return nil, err
	}
	if req.GetEvaluate() {
		if err := evaluate(ctx, res); err != nil {
			return nil, err
		}
	}
	out := &gwpb.Result{Metadata: res.Metadata}
	switch {
	case res.Refs != nil && req.GetAllowResultArrayRef():
		m := &gwpb.RefMap{Refs: map[string]*gwpb.Ref{}}
		for k, r := range res.Refs {
			m.Refs[k] = s.give(r)
		}
		out.Result = &gwpb.Result_Refs{Refs: m}
	case res.Refs != nil:
		m := &gwpb.RefMapDeprecated{Refs: map[string]string{}}
		for k, r := range res.Refs {
			m.Refs[k] = s.give(r).Id
		}
		out.Result = &gwpb.Result_RefsDeprecated{RefsDeprecated: m}
	case req.GetAllowResultArrayRef():
		out.Result = &gwpb.Result_Ref{Ref: s.give(res.Ref)}
	default:
		out.Result = &gwpb.Result_RefDeprecated{RefDeprecated: s.give(res.Ref).Id}
	}
	resp := &gwpb.SolveResponse{Result: out}
	if !req.GetAllowResultReturn() {
		resp.Ref = s.give(res.Ref).Id
	}
	return resp, nil
}

func evaluate(ctx context.Context, res *frontend.Result) error {
	if res.Ref != nil {
		return res.Ref.Evaluate(ctx)
	}
	for _, r := range res.Refs {
		if r == nil {
			continue
		}
		if err := r.Evaluate(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Evaluate builds a result.
func (f *Forwarder) Evaluate(ctx context.Context, req *gwpb.EvaluateRequest) (*gwpb.EvaluateResponse, error) {
	s, err := f.find(ctx)
	if err != nil {
		return nil, err
	}
	r, err := s.ref(req.GetRef())
	if err != nil {
		return nil, err
	}
	if r != nil {
		if err := r.Evaluate(ctx); err != nil {
			return nil, err
		}
	}
	return &gwpb.EvaluateResponse{}, nil
}

// ReadFile reads a file of a result.
func (f *Forwarder) ReadFile(ctx context.Context, req *gwpb.ReadFileRequest) (*gwpb.ReadFileResponse, error) {
	r, err := f.readable(ctx, req.GetRef())
	if err != nil {
		return nil, err
	}
	if req.GetRange().GetOffset() < 0 || req.GetRange().GetLength() < 0 {
		return nil, cerrdefs.ErrInvalidArgument.WithMessage("read " + req.GetFilePath() + ": offset and length must not be negative")
	}
	data, err := r.ReadFile(ctx, req.GetFilePath(), req.GetRange().GetOffset(), req.GetRange().GetLength())
	if err != nil {
		return nil, err
	}
	return &gwpb.ReadFileResponse{Data: data}, nil
}

// ReadDir lists a directory of a result.
func (f *Forwarder) ReadDir(ctx context.Context, req *gwpb.ReadDirRequest) (*gwpb.ReadDirResponse, error) {
	r, err := f.readable(ctx, req.GetRef())
	if err != nil {
		return nil, err
	}
	entries, err := r.ReadDir(ctx, req.GetDirPath(), req.GetIncludePattern())
	if err != nil {
		return nil, err
	}
	return &gwpb.ReadDirResponse{Entries: entries}, nil
}

// StatFile describes a file of a result.
func (f *Forwarder) StatFile(ctx context.Context, req *gwpb.StatFileRequest) (*gwpb.StatFileResponse, error) {
	r, err := f.readable(ctx, req.GetRef())
	if err != nil {
		return nil, err
	}
	st, err := r.StatFile(ctx, req.GetPath())
	if err != nil {
		return nil, err
	}
	return &gwpb.StatFileResponse{Stat: st}, nil
}

// ResolveImageConfig returns the config of an image.
func (f *Forwarder) ResolveImageConfig(ctx context.Context, req *gwpb.ResolveImageConfigRequest) (*gwpb.ResolveImageConfigResponse, error) {
	s, err := f.find(ctx)
	if err != nil {
		return nil, err
	}
	if len(req.GetSourcePolicies()) > 0 {
		return nil, cerrdefs.ErrNotImplemented.WithMessage("not implemented: source policies")
	}
	opt := frontend.ResolveOpt{Platform: platform(req.GetPlatform()), Mode: req.GetResolveMode(), LogName: req.GetLogName()}
	if req.GetStoreID() != "" {
		opt.OCILayout = &frontend.OCILayout{SessionID: req.GetSessionID(), StoreID: req.GetStoreID()}
	}
	meta, err := s.Bridge.ResolveImage(ctx, req.GetRef(), opt)
	if err != nil {
		return nil, err
	}
	return &gwpb.ResolveImageConfigResponse{Digest: meta.Digest.String(), Config: meta.Config, Ref: meta.Ref}, nil
}

func platform(p *pb.Platform) *ocispec.Platform {
	if p == nil {
		return nil
	}
	return &ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures}
}

// Inputs returns the definitions that were handed to the client's frontend.
func (f *Forwarder) Inputs(ctx context.Context, _ *gwpb.InputsRequest) (*gwpb.InputsResponse, error) {
	s, err := f.find(ctx)
	if err != nil {
		return nil, err
	}
	return &gwpb.InputsResponse{Definitions: s.Inputs}, nil
}

// Warn attaches a warning to a vertex.
func (f *Forwarder) Warn(ctx context.Context, req *gwpb.WarnRequest) (*gwpb.WarnResponse, error) {
	s, err := f.find(ctx)
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
