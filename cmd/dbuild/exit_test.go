package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/internal/rpcerror"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ofKind is an error as a daemon of ours returns it.
func ofKind(k rpcerror.Kind) error {
	p := status.New(codes.Unknown, "x").Proto()
	p.Details = append(p.Details, k.Info())
	return fmt.Errorf("failed to solve: %w", status.ErrorProto(p))
}

// exited is the failure of a RUN.
func exited(code uint32) error {
	return errdefs.WrapVertex(&gwpb.ExitError{ExitCode: code, Err: status.Error(codes.Unknown, "x")}, digest.FromString("v"))
}

func atLine(err error) error {
	return errdefs.WithSource(err, &errdefs.Source{Info: &pb.SourceInfo{Filename: "Dockerfile"}})
}

func TestExitCode(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
		want int
	}{
		{"none", nil, 0},
		{"other", errors.New("x"), 1},
		{"unknown", status.Error(codes.Unknown, "x"), 1},
		{"not found", status.Error(codes.NotFound, "x"), 1},
		{"usage", usagef("x"), 20},
		{"flags", fmt.Errorf("a: %w", &buildflags.UsageError{Err: errors.New("x")}), 20},
		{"file", &buildflags.FileError{Err: errors.New("x")}, 20},
		{"Dockerfile, of a daemon that names no class", atLine(status.Error(codes.Unknown, "x")), 20},
		{"config", ofKind(rpcerror.Kind{Class: rpcerror.Config}), 20},
		{"registry", ofKind(rpcerror.Kind{Class: rpcerror.Network}), 30},
		{"unavailable", status.Error(codes.Unavailable, "x"), 30},
		{"no daemon", &connectError{err: errors.New("x")}, 30},
		{"policy", ofKind(rpcerror.Kind{Class: rpcerror.Policy}), 40},
		{"not allowed", status.Error(codes.PermissionDenied, "x"), 40},
		{"internal", fmt.Errorf("failed to solve: %w", status.Error(codes.Internal, "x")), 100},
		{"resources", status.Error(codes.ResourceExhausted, "x"), 102},
		{"disk of the client", fmt.Errorf("out.tar: %w", syscall.ENOSPC), 102},
		{"canceled", status.Error(codes.Canceled, "x"), 130},
		{"interrupted", fmt.Errorf("a: %w", context.Canceled), 130},
		{"chosen elsewhere", statusError(7), 7},
		{"RUN", exited(3), 3},
		{"RUN, as a class", &classOnly{exited(3)}, 1},
		{"RUN with the code of a class", exited(20), 20},
		{"RUN that must fail but did not", exited(0), 1},
		{"a RUN of no known code", exited(1 << 20), 1},
		{"a class is not hidden", &classOnly{ofKind(rpcerror.Kind{Class: rpcerror.Policy})}, 40},
		{"a class that is newer than we", ofKind(rpcerror.Kind{Class: "new"}), 1},
	} {
		if got := exitCode(tc.err); got != tc.want {
			t.Errorf("%s: got %d, want %d", tc.name, got, tc.want)
		}
	}
}

func TestOutcome(t *testing.T) {
	p := &progress{failed: map[string]string{digest.FromString("v").String(): "[2/2] RUN x"}}
	r := &running{ref: "r", progress: p}
	o := r.outcome(errdefs.WithSource(exited(20), &errdefs.Source{
		Info: &pb.SourceInfo{Filename: "Dockerfile"}, Ranges: []*pb.Range{{Start: &pb.Position{Line: 7}}},
	}))
	if o.Class != rpcerror.Step || o.StepExitCode == nil || *o.StepExitCode != 20 || o.ExitCode != 20 ||
		o.Step != "[2/2] RUN x" || o.File != "Dockerfile" || o.Line != 7 || o.Message != "x" || o.Ref != "r" {
		t.Errorf("a failing RUN: %+v", o)
	}
	// The same exit code of another class.
	if o = r.outcome(ofKind(rpcerror.Kind{Class: rpcerror.Config})); o.Class != rpcerror.Config || o.ExitCode != 20 || o.StepExitCode != nil {
		t.Errorf("a bad Dockerfile: %+v", o)
	}
	if o = r.outcome(ofKind(rpcerror.Kind{Class: rpcerror.Network, Retryable: true})); !o.Retryable || o.ExitCode != 30 {
		t.Errorf("the network: %+v", o)
	}
	r.response = map[string]string{keyDigest: "sha256:d", keyConfigDigest: "sha256:c", "image.name": "app"}
	if o = r.outcome(nil); o.Class != success || o.ExitCode != 0 || o.Digest != "sha256:d" || o.ImageID != "sha256:c" || o.ImageName != "app" {
		t.Errorf("success: %+v", o)
	}
	if o = r.outcome(statusError(1)); o.Class != checks || o.ExitCode != 1 {
		t.Errorf("checks: %+v", o)
	}
}
