package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/rpcerror"
	"github.com/dbuild/dbuild/policy"
	"github.com/dbuild/dbuild/worker"
	"github.com/dbuild/dbuild/worker/runc"
	"github.com/moby/buildkit/solver/errdefs"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func TestKinds(t *testing.T) {
	line := func(err error) error { return errdefs.WithSource(err, &errdefs.Source{}) }
	input := func(err error) error { return &frontend.InputError{Err: err} }
	for name, c := range map[string]struct {
		err   error
		class rpcerror.Class
		retry bool
	}{
		"a command":                {errdefs.WrapVertex(&runc.ExitError{Code: 3}, digest.FromString("v")), rpcerror.Step, false},
		"a line":                   {line(errors.New("x")), rpcerror.Config, false},
		"a line whose step failed": {line(errdefs.WrapVertex(errors.New("x"), digest.FromString("v"))), rpcerror.Other, false},
		"an option":                {input(errors.New("x")), rpcerror.Config, false},
		"a missing file":           {line(errdefs.WrapVertex(&worker.MissingError{Path: "/x"}, digest.FromString("v"))), rpcerror.Config, false},
		"a registry is away":       {input(line(&registry.Error{Class: registry.ErrUnreachable})), rpcerror.Network, true},
		"no such image":            {input(line(&registry.Error{Class: registry.ErrNotFound})), rpcerror.Network, false},
		"a registry denies":        {&registry.Error{Class: registry.ErrDenied}, rpcerror.Network, false},
		"a server is away":         {fmt.Errorf("get: %w", &net.OpError{Op: "dial", Err: unix.ECONNREFUSED}), rpcerror.Network, true},
		"a policy":                 {fmt.Errorf("x: %w", policy.ErrDenied), rpcerror.Policy, false},
		"an entitlement":           {input(cerrdefs.ErrPermissionDenied.WithMessage("x")), rpcerror.Policy, false},
		"full":                     {fmt.Errorf("x: %w", unix.ENOSPC), rpcerror.Resources, false},
		"canceled":                 {context.Canceled, rpcerror.Canceled, false},
		"late":                     {context.DeadlineExceeded, rpcerror.Other, false},
		"other":                    {errors.New("x"), rpcerror.Other, false},
	} {
		if got := kindOf(c.err); got.Class != c.class || got.Retryable != c.retry {
			t.Errorf("%s: got %+v", name, got)
		}
	}
}
