package rpcerror_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/dbuild/dbuild/internal/rpcerror"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestKindTravels(t *testing.T) {
	for _, want := range []rpcerror.Kind{{Class: rpcerror.Config}, {Class: rpcerror.Network, Retryable: true}} {
		p := status.New(codes.Unknown, "x").Proto()
		p.Details = append(p.Details, rpcerror.Details(&struct{}{})...)
		p.Details = append(p.Details, want.Info())
		got, ok := rpcerror.KindOf(fmt.Errorf("solve: %w", status.ErrorProto(p)))
		if !ok || got != want {
			t.Errorf("got %v %v, want %v", got, ok, want)
		}
	}
	for _, err := range []error{nil, errors.New("x"), status.Error(codes.NotFound, "x")} {
		if got, ok := rpcerror.KindOf(err); ok {
			t.Errorf("%v is of kind %v", err, got)
		}
	}
}
