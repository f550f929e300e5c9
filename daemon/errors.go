package daemon

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/dbuild/dbuild/internal/rpcerror"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// toStatus turns err into what clients decode.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	p := status.Convert(rpcerror.Status(err)).Proto()
	var missing *worker.MissingError
	if errors.As(err, &missing) {
		p.Message = strings.Replace(p.Message, missing.Error(), asBuildKit(missing), 1)
	}
	if len(p.Details) > 0 { // somebody will look into it
		p.Details = slices.Insert(p.Details, 0, rpcerror.Details(here())...)
	}
	if _, said := rpcerror.KindOf(err); !said {
		if k := kindOf(err); k.Class == rpcerror.Network || k.Class == rpcerror.Config {
			p.Details = append(p.Details, k.Info())
		} // of the others the code and the details speak
	}
	return status.ErrorProto(p)
}

// asBuildKit says that a file is not there as programs expect it: by the way in which
// BuildKit finds that out. What people want to know comes behind it.
func asBuildKit(m *worker.MissingError) string {
	fact := fmt.Sprintf("%q: not found", m.Path)
	said, ok := strings.CutPrefix(m.Error(), fact)
	if !ok {
		said = ": " + m.Error()
	}
	if m.Copying {
		return "lstat " + m.Path + ": no such file or directory" + said
	}
	return "failed to compute cache key: failed to calculate checksum of ref input: " + fact + said
}

// locate adds to err the place in the source that the failing vertex comes from, and
// what machines want to know about it.
func locate(err error, find func(*solver.VertexError) (*llb.Vertex, []*pb.SourceInfo)) error {
	var ve *solver.VertexError
	if err == nil || !errors.As(err, &ve) {
		return err
	}
	v, files := find(ve)
	if v != nil {
		if s := failed(err); s != nil {
			s.Op, s.Description = v.Op, v.Meta.GetDescription()
			err = &errdefs.SolveError{Err: err, Solve: s}
		}
		err = placed(err, v, files)
	}
	return errdefs.WrapVertex(err, ve.Vertex.Show.Digest)
}

// placed adds to err where a vertex stands in the source.
func placed(err error, v *llb.Vertex, files []*pb.SourceInfo) error {
	// Clients show the sources from the last to the first.
	for _, loc := range slices.Backward(v.Locations) {
		err = errdefs.WithSource(err, &errdefs.Source{Info: files[loc.SourceIndex], Ranges: loc.Ranges})
	}
	return err
}

// failed says which part of an operation failed, or nil if none was carried out.
func failed(err error) *errdefs.Solve {
	var f *worker.Failure
	if !errors.As(err, &f) {
		return nil
	}
	s := new(errdefs.Solve)
	switch {
	case f.Action >= 0:
		s.Subject = &errdefs.Solve_File{File: &errdefs.FileAction{Index: int64(f.Action)}}
	case f.Input >= 0:
		s.Subject = &errdefs.Solve_Cache{Cache: &errdefs.ContentCache{Index: int64(f.Input)}}
	}
	return s
}

// unaryErrors and streamErrors give every handler typed errors, and turn a panic into
// the failure of that one request.
func (d *Daemon) unaryErrors(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = d.panicked(info.FullMethod, r)
		}
	}()
	resp, err = h(ctx, req)
	return resp, toStatus(err)
}

func (d *Daemon) streamErrors(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = d.panicked(info.FullMethod, r)
		}
	}()
	return toStatus(h(srv, ss))
}

// guard calls f, and turns a panic into an error: what goes wrong in one build's cache ends
// that build and not the daemon with all the others.
func (d *Daemon) guard(what string, f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = d.panicked(what, r)
		}
	}()
	return f()
}

// panicked keeps the trace in the log: it says nothing to users.
func (d *Daemon) panicked(method string, r any) error {
	d.log.Error("panic", "method", method, "panic", r, "stack", string(debug.Stack()))
	return status.Error(codes.Internal, fmt.Sprintf("internal error: %v; the daemon's log has the details", r))
}
