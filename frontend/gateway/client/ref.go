package client

import (
	"context"
	"fmt"
	"io/fs"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/gateway/wire"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// A ref is a result that the builder has.
type ref struct {
	b   *bridge
	id  string
	def *pb.Definition
}

// result takes over what a builder answered. Older ones do not say what makes a ref: def
// does, if it was asked for that.
func (b *bridge) result(r *gwpb.Result, def *pb.Definition) (*frontend.Result, error) {
	out := &frontend.Result{Metadata: r.GetMetadata()}
	if out.Metadata == nil {
		out.Metadata = map[string][]byte{}
	}
	one := func(id string, d *pb.Definition) frontend.Ref {
		if id == "" {
			return nil
		}
		if d == nil {
			d = def
		}
		return &ref{b: b, id: id, def: d}
	}
	switch x := r.GetResult().(type) {
	case *gwpb.Result_RefDeprecated:
		out.Ref = one(x.RefDeprecated, nil)
	case *gwpb.Result_Ref:
		out.Ref = one(x.Ref.GetId(), x.Ref.GetDef())
	case *gwpb.Result_RefsDeprecated:
		out.Refs = map[string]frontend.Ref{}
		for k, id := range x.RefsDeprecated.GetRefs() {
			out.Refs[k] = one(id, nil)
		}
	case *gwpb.Result_Refs:
		out.Refs = map[string]frontend.Ref{}
		for k, v := range x.Refs.GetRefs() {
			out.Refs[k] = one(v.GetId(), v.GetDef())
		}
	}
	var err error
	out.Attestations, err = wire.ParseAttestations(r.GetAttestations(), func(id string) (frontend.Ref, error) { return one(id, nil), nil })
	return out, err
}

// wire is a result in the form that the builder understands.
func (b *bridge) wire(res *frontend.Result) (*gwpb.Result, error) {
	out := &gwpb.Result{Metadata: res.Metadata}
	array := b.supports(gwpb.CapProtoRefArray) == nil
	if len(res.Refs) > 1 {
		if err := b.supports(gwpb.CapReturnMap); err != nil {
			return nil, err
		}
	}
	single, err := wireRef(res.Ref)
	if err != nil {
		return nil, err
	}
	many, ids := map[string]*gwpb.Ref{}, map[string]string{}
	for k, r := range res.Refs {
		if many[k], err = wireRef(r); err != nil {
			return nil, err
		}
		ids[k] = many[k].Id
	}
	if len(res.Attestations) > 0 {
		if err := b.supports(gwpb.CapAttestations); err != nil {
			return nil, err
		}
		out.Attestations = wire.Attestations(res.Attestations, func(r frontend.Ref) *gwpb.Ref {
			id, err1 := wireRef(r)
			if err1 != nil {
				err = err1
			}
			return id
		})
		if err != nil {
			return nil, err
		}
	}
	switch {
	case res.Refs != nil && array:
		out.Result = &gwpb.Result_Refs{Refs: &gwpb.RefMap{Refs: many}}
	case res.Refs != nil:
		out.Result = &gwpb.Result_RefsDeprecated{RefsDeprecated: &gwpb.RefMapDeprecated{Refs: ids}}
	case array:
		out.Result = &gwpb.Result_Ref{Ref: single}
	default:
		out.Result = &gwpb.Result_RefDeprecated{RefDeprecated: single.Id}
	}
	return out, nil
}

func wireRef(r frontend.Ref) (*gwpb.Ref, error) {
	if r == nil {
		return &gwpb.Ref{}, nil
	}
	ours, ok := r.(*ref)
	if !ok {
		return nil, fmt.Errorf("internal error: a result of type %T is not the builder's", r)
	}
	return &gwpb.Ref{Id: ours.id, Def: ours.def}, nil
}

// Definition implements frontend.Ref.
func (r *ref) Definition() *pb.Definition { return r.def }

// Evaluate implements frontend.Ref.
func (r *ref) Evaluate(ctx context.Context) error {
	if err := r.b.supports(gwpb.CapGatewayEvaluate); err != nil {
		return err
	}
	_, err := r.b.c.Evaluate(ctx, &gwpb.EvaluateRequest{Ref: r.id})
	return err
}

// ReadFile implements frontend.Ref.
func (r *ref) ReadFile(ctx context.Context, path string, offset, length int64) ([]byte, error) {
	req := &gwpb.ReadFileRequest{Ref: r.id, FilePath: path}
	if offset != 0 || length != 0 {
		req.Range = &gwpb.FileRange{Offset: offset, Length: length}
	}
	resp, err := r.b.c.ReadFile(ctx, req)
	return resp.GetData(), missing(err)
}

// ReadDir implements frontend.Ref.
func (r *ref) ReadDir(ctx context.Context, path, includePattern string) ([]*fstypes.Stat, error) {
	if err := r.b.supports(gwpb.CapReadDir); err != nil {
		return nil, err
	}
	resp, err := r.b.c.ReadDir(ctx, &gwpb.ReadDirRequest{Ref: r.id, DirPath: path, IncludePattern: includePattern})
	return resp.GetEntries(), missing(err)
}

// StatFile implements frontend.Ref.
func (r *ref) StatFile(ctx context.Context, path string) (*fstypes.Stat, error) {
	if err := r.b.supports(gwpb.CapStatFile); err != nil {
		return nil, err
	}
	resp, err := r.b.c.StatFile(ctx, &gwpb.StatFileRequest{Ref: r.id, Path: path})
	return resp.GetStat(), missing(err)
}

// missing makes a missing file an fs.ErrNotExist. Builders have no code for it, only what
// the system says.
func missing(err error) error {
	if err != nil && (cerrdefs.IsNotFound(err) || strings.Contains(err.Error(), "no such file or directory") ||
		strings.Contains(err.Error(), "file does not exist")) {
		return &missingError{err}
	}
	return err
}

type missingError struct{ err error }

func (e *missingError) Error() string        { return e.err.Error() }
func (e *missingError) Unwrap() error        { return e.err }
func (e *missingError) Is(target error) bool { return target == fs.ErrNotExist }
