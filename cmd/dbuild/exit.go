package main

import (
	"errors"
	"fmt"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/engine"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/imagestore"
	"github.com/dbuild/dbuild/internal/rpcerror"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"google.golang.org/grpc/codes"
)

// Exit codes (docs/exit-codes.md). That of a RUN that failed is passed on instead, and may
// be one of these; --result-file tells them apart.
const (
	exitOther     = 1
	exitDiffers   = 10 // of "dbuild verify"
	exitConfig    = 20
	exitNetwork   = 30
	exitPolicy    = 40
	exitInternal  = 100
	exitResources = 102
	exitTimeout   = 124 // as timeout(1)
	exitCanceled  = 130
)

var exitCodes = map[rpcerror.Class]int{
	rpcerror.Config: exitConfig, rpcerror.Network: exitNetwork, rpcerror.Policy: exitPolicy, rpcerror.Internal: exitInternal,
	rpcerror.Resources: exitResources, rpcerror.Canceled: exitCanceled,
	timedOut: exitTimeout,
}

// kindOf says whose trouble err is: what a daemon of ours says, or else what can be seen.
func kindOf(err error) rpcerror.Kind {
	var (
		usage  *usageError
		flags  *buildflags.UsageError
		file   *buildflags.FileError
		late   *timeoutError
		dir    *buildflags.MissingContextError
		conn   *connectError
		engine *engine.UnreachableError
		images *imagestore.UnreachableError
		exit   *gwpb.ExitError
		vertex *errdefs.VertexError
	)
	code := codeOf(err)
	switch {
	case errors.As(err, &usage), errors.As(err, &flags), errors.As(err, &file), errors.As(err, &dir):
		return rpcerror.Kind{Class: rpcerror.Config}
	case errors.As(err, &conn), errors.As(err, &engine), errors.As(err, &images):
		return rpcerror.Kind{Class: rpcerror.Network, Retryable: true}
	case errors.As(err, &late):
		return rpcerror.Kind{Class: timedOut}
	case code == codes.Canceled:
		return rpcerror.Kind{Class: rpcerror.Canceled}
	}
	if k, ok := rpcerror.KindOf(err); ok {
		return k
	}
	switch {
	case code == codes.ResourceExhausted:
		return rpcerror.Kind{Class: rpcerror.Resources}
	case errors.As(err, &exit) && errors.As(err, &vertex):
		return rpcerror.Kind{Class: rpcerror.Step}
	case code == codes.Unavailable:
		return rpcerror.Kind{Class: rpcerror.Network, Retryable: true}
	case code == codes.PermissionDenied:
		return rpcerror.Kind{Class: rpcerror.Policy}
	case code == codes.Internal:
		return rpcerror.Kind{Class: rpcerror.Internal}
	case code == codes.InvalidArgument, len(errdefs.Sources(err)) > 0 && !errors.As(err, &vertex):
		return rpcerror.Kind{Class: rpcerror.Config}
	}
	return rpcerror.Kind{Class: rpcerror.Other}
}

// stepCode is what the command of the Dockerfile that failed ended with.
func stepCode(err error) (code int, ok bool) {
	var exit *gwpb.ExitError
	if !errors.As(err, &exit) || kindOf(err).Class != rpcerror.Step {
		return 0, false
	}
	return int(exit.ExitCode), true
}

// exitCode returns what the program exits with because of err.
func exitCode(err error) int {
	if err == nil {
		return 0
	}
	var st statusError
	if errors.As(err, &st) {
		return int(st)
	}
	var hidden *classOnly
	if !errors.As(err, &hidden) {
		if code, ok := stepCode(err); ok && code > 0 && code <= 255 {
			return code
		}
	}
	if code, ok := exitCodes[kindOf(err).Class]; ok {
		return code
	}
	return exitOther
}

// A classOnly is an error whose step's exit code is not to become ours.
type classOnly struct{ error }

func (e *classOnly) Unwrap() error { return e.error }

// passesStepCode tells whether the exit code of a RUN that fails is to be ours: by
// --exit-code, or DBUILD_EXIT_CODE.
func (a *app) passesStepCode(flag string) (bool, error) {
	value, from := flag, "--exit-code"
	if v, _ := a.lookup("DBUILD_EXIT_CODE"); value == "" && v != "" {
		value, from = v, "DBUILD_EXIT_CODE"
	}
	switch value {
	case "", "step":
		return true, nil
	case "class":
		return false, nil
	}
	return false, &usageError{fmt.Errorf("%s=%s: want step (a failing RUN's exit code is that of dbuild) or class (it is 1)", from, value)}
}
