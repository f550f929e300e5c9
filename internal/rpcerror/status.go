package rpcerror

import (
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// Status turns err into an error of gRPC. It keeps every payload in the chain, those too
// that came over gRPC.
func Status(err error) error {
	if err == nil {
		return nil
	}
	st := &statusError{code: Code(err), msg: err.Error()}
	st.collect(err)
	st.msg = strings.ToValidUTF8(st.msg, "\uFFFD")
	return st.status().Err()
}

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
	case *errdefs.ProvenanceMaterialsIncompleteError:
		payload = e.ProvenanceMaterialsIncomplete
	case *policysession.DenyMessagesError:
		payload = &policysession.DecisionResponse{Action: spb.PolicyAction_DENY, DenyMessages: e.Messages}
	case *exec.ExitError: // a program of ours, which is no business of the client
	case interface{ ExitCode() int }:
		payload = &gwpb.ExitMessage{Code: uint32(e.ExitCode())}
	}
	if payload != nil {
		s.details = append(s.details, Details(payload)...)
	}
}

// Details is a payload as clients decode it, or nothing if that is not possible. Although
// payloads are protobuf messages, clients expect their JSON.
func Details(payload any) []*anypb.Any {
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

// Code is the code that says best what err is.
func Code(err error) codes.Code {
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
