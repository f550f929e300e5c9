package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/gateway/wire"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Solve makes results of a definition or by a frontend of the daemon.
func (v *service) Solve(ctx context.Context, req *gwpb.SolveRequest) (*gwpb.SolveResponse, error) {
	s, err := v.find(ctx)
	if err != nil {
		return nil, err
	}
	var res *frontend.Result
	hasDef := len(req.GetDefinition().GetDef()) > 0
	for _, e := range req.GetCacheImports() {
		s.Bridge.ImportCache(frontend.CacheEntry{Type: e.GetType(), Attrs: e.GetAttrs()})
	}
	switch {
	case req.GetFrontend() != "" && hasDef:
		return nil, cerrdefs.ErrInvalidArgument.WithMessage("a request has either a definition or a frontend, not both")
	case req.GetFrontend() != "":
		// Results are lazy: the call ends before anything is built.
		res, err = s.Bridge.SolveFrontend(ctx, req.GetFrontend(), &frontend.Request{Opts: req.GetFrontendOpt(), Inputs: req.GetFrontendInputs()})
	case hasDef:
		var b frontend.Bridge
		if b, err = s.Bridge.WithPolicies(req.GetSourcePolicies()); err == nil {
			res = &frontend.Result{}
			res.Ref, err = b.Solve(ctx, req.GetDefinition())
		}
	default:
		res = &frontend.Result{}
	}
	if err != nil {
		return nil, s.failed(err)
	}
	if req.GetEvaluate() {
		if err := evaluate(ctx, res); err != nil {
			return nil, s.failed(err)
		}
	}
	if req.GetFinal() {
		if err := s.returnInline(req.GetExporterAttr(), res); err != nil {
			return nil, err
		}
	}
	resp := &gwpb.SolveResponse{Result: s.giveAll(res, req.GetAllowResultArrayRef())}
	if !req.GetAllowResultReturn() {
		resp.Ref = resp.Result.GetRef().GetId() + resp.Result.GetRefDeprecated()
	}
	return resp, nil
}

// giveAll makes a result known to the client, in the form that it understands.
func (s *serving) giveAll(res *frontend.Result, array bool) *gwpb.Result {
	out := &gwpb.Result{Metadata: res.Metadata, Attestations: wire.Attestations(res.Attestations, s.give)}
	switch {
	case res.Refs != nil && array:
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
	case array:
		out.Result = &gwpb.Result_Ref{Ref: s.give(res.Ref)}
	default:
		out.Result = &gwpb.Result_RefDeprecated{RefDeprecated: s.give(res.Ref).Id}
	}
	return out
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

// returnInline is how frontends return that are older than Return: they mark what they
// solve last, and exit.
func (s *serving) returnInline(attrs []byte, res *frontend.Result) error {
	md := map[string][]byte{}
	if len(attrs) > 0 {
		if err := json.Unmarshal(attrs, &md); err != nil {
			return cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("the metadata of the result is not JSON: %v", err))
		}
	}
	if md == nil { // "null"
		md = map[string][]byte{}
	}
	maps.Copy(md, res.Metadata)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.final = &frontend.Result{Ref: res.Ref, Refs: res.Refs, Metadata: md, Attestations: res.Attestations}
	return nil
}

// Return ends the client's frontend with a result or an error.
func (v *service) Return(ctx context.Context, req *gwpb.ReturnRequest) (*gwpb.ReturnResponse, error) {
	s, err := v.find(ctx)
	if err != nil {
		return nil, err
	}
	var o outcome
	if e := req.GetError(); e != nil {
		o.err = returnedError(e)
	} else {
		o.res, o.err = s.result(req.GetResult())
	}
	return &gwpb.ReturnResponse{}, s.finish(o)
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
	if out.Attestations, err = wire.ParseAttestations(r.GetAttestations(), s.ref); err != nil {
		return nil, err
	}
	return out, nil
}
