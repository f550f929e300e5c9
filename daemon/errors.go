package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker"
	"github.com/dbuild/dbuild/worker/fileop"
	"github.com/dbuild/dbuild/worker/runc"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// toStatus turns err into what clients decode: a code, one message, and details for
// machines as JSON in Any (protocol of BuildKit's clients).
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	st := &statusError{code: code(err), msg: err.Error()}
	st.collect(err)
	var missing *worker.MissingError
	var absent *fileop.NotFoundError
	switch { // programs look for the way in which BuildKit finds out that a file is not there
	case errors.As(err, &missing):
		st.msg = strings.Replace(st.msg, missing.Error(), missingFile+"input: "+missing.Error(), 1)
	case errors.As(err, &absent):
		st.msg = strings.Replace(st.msg, absent.Error(), missingFile+"input: "+absent.Error(), 1)
	}
	if len(st.details) > 0 { // somebody will look into it
		st.details = slices.Insert(st.details, 0, detail(here())...)
	}
	st.msg = valid(st.msg)
	return st.status().Err()
}

// missingFile comes before the name of an input and that of a file that it lacks.
const missingFile = "failed to compute cache key: failed to calculate checksum of ref "

type statusError struct {
	code    codes.Code
	msg     string
	details []*anypb.Any
}

func (s *statusError) status() *status.Status {
	p := status.New(s.code, s.msg).Proto()
	p.Details = s.details
	return status.FromProto(p)
}

// collect walks the whole tree of err and keeps every typed payload, outermost last:
// clients wrap them again in that order. Of an error that came over gRPC, such as what a
// client returns through the gateway, it keeps the message and the payloads it has.
func (s *statusError) collect(err error) {
	if err == nil {
		return
	}
	switch u := err.(type) {
	case interface{ Unwrap() error }:
		s.collect(u.Unwrap())
	case interface{ Unwrap() []error }:
		for _, e := range u.Unwrap() {
			s.collect(e)
		}
	}
	var payload any
	switch e := err.(type) {
	case interface{ GRPCStatus() *status.Status }:
		st := e.GRPCStatus()
		s.msg = strings.ReplaceAll(s.msg, err.Error(), st.Message())
		s.details = append(s.details, st.Proto().GetDetails()...)
	case *errdefs.SourceError:
		payload = e.Source
	case *errdefs.VertexError:
		payload = e.Vertex
	case *errdefs.SolveError:
		payload = e.Solve
	case *errdefs.UnsupportedFrontendCapError:
		payload = e.FrontendCap
	case *errdefs.UnsupportedSubrequestError:
		payload = e.Subrequest
	case *errdefs.UnsupportedCompatibilityFeatureError:
		payload = e.CompatibilityFeature
	case *policysession.DenyMessagesError:
		payload = &policysession.DecisionResponse{Action: spb.PolicyAction_DENY, DenyMessages: e.Messages}
	case *runc.ExitError:
		payload = &gwpb.ExitMessage{Code: uint32(e.Code)}
	}
	if payload != nil {
		s.details = append(s.details, detail(payload)...)
	}
}

// detail is a payload as clients decode it, or nothing if that is not possible. Although
// payloads are protobuf messages, clients expect their JSON.
func detail(payload any) []*anypb.Any {
	url, err := typeurl.TypeURL(payload)
	if err != nil {
		return nil
	}
	value, err := json.Marshal(payload)
	if err != nil {
		return nil
	}
	return []*anypb.Any{{TypeUrl: url, Value: value}}
}

func code(err error) codes.Code {
	if errors.Is(err, context.Canceled) {
		return codes.Canceled
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return codes.DeadlineExceeded
	}
	if errors.Is(err, unix.ENOSPC) {
		return codes.ResourceExhausted
	}
	var coded interface{ GRPCStatus() *status.Status }
	if errors.As(err, &coded) {
		return coded.GRPCStatus().Code()
	}
	if isUnsupported(err) {
		return codes.Unimplemented
	}
	for _, k := range kinds {
		if k.is(err) {
			return k.code
		}
	}
	return codes.Unknown
}

// isUnsupported reports whether err says that the client asks for what newer builders may
// have: it then tries in another way.
func isUnsupported(err error) bool {
	var capability *errdefs.UnsupportedFrontendCapError
	var request *errdefs.UnsupportedSubrequestError
	var version *errdefs.UnsupportedCompatibilityFeatureError
	return errors.As(err, &capability) || errors.As(err, &request) || errors.As(err, &version)
}

// kinds are the codes of errors that say what they are.
var kinds = []struct {
	is   func(error) bool
	code codes.Code
}{
	{cerrdefs.IsInvalidArgument, codes.InvalidArgument},
	{cerrdefs.IsNotFound, codes.NotFound},
	{cerrdefs.IsAlreadyExists, codes.AlreadyExists},
	{cerrdefs.IsPermissionDenied, codes.PermissionDenied},
	{cerrdefs.IsResourceExhausted, codes.ResourceExhausted},
	{cerrdefs.IsFailedPrecondition, codes.FailedPrecondition},
	{cerrdefs.IsNotImplemented, codes.Unimplemented},
	{cerrdefs.IsUnavailable, codes.Unavailable},
	{cerrdefs.IsUnauthorized, codes.Unauthenticated},
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
		var exit *runc.ExitError
		if errors.As(err, &exit) {
			err = &errdefs.SolveError{Err: err, Solve: &errdefs.Solve{Op: v.Op, Description: v.Meta.GetDescription()}}
		}
		// Clients show the sources from the last to the first.
		for _, loc := range slices.Backward(v.Locations) {
			err = errdefs.WithSource(err, &errdefs.Source{Info: files[loc.SourceIndex], Ranges: loc.Ranges})
		}
	}
	return errdefs.WrapVertex(err, ve.Vertex.Show.Digest)
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

// panicked keeps the trace in the log: it says nothing to users.
func (d *Daemon) panicked(method string, r any) error {
	d.log.Error("panic", "method", method, "panic", r, "stack", string(debug.Stack()))
	return status.Error(codes.Internal, fmt.Sprintf("internal error: %v; the daemon's log has the details", r))
}
