package daemon

import (
	"errors"
	"net"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/rpcerror"
	"github.com/dbuild/dbuild/policy"
	"github.com/dbuild/dbuild/worker"
	"github.com/dbuild/dbuild/worker/runc"
	"github.com/moby/buildkit/solver/errdefs"
	"google.golang.org/grpc/codes"
)

// kindOf says whose trouble err is.
func kindOf(err error) (k rpcerror.Kind) {
	var (
		exit    *runc.ExitError
		reg     *registry.Error
		network net.Error
		missing *worker.MissingError
		source  *errdefs.SourceError
		input   *frontend.InputError
		vertex  *errdefs.VertexError
	)
	switch code := rpcerror.Code(err); {
	case code == codes.Canceled:
		k.Class = rpcerror.Canceled
	case code == codes.DeadlineExceeded: // of whom is not known, though it looks like the network's
		k.Class = rpcerror.Other
	case code == codes.ResourceExhausted:
		k.Class = rpcerror.Resources
	case errors.As(err, &exit):
		k.Class = rpcerror.Step
	case errors.Is(err, policy.ErrDenied):
		k.Class = rpcerror.Policy
	case errors.As(err, &reg):
		k = rpcerror.Kind{Class: rpcerror.Network, Retryable: reg.Retryable()}
	case errors.As(err, &network), code == codes.Unavailable:
		k = rpcerror.Kind{Class: rpcerror.Network, Retryable: true}
	case code == codes.PermissionDenied:
		k.Class = rpcerror.Policy
	case code == codes.Internal:
		k.Class = rpcerror.Internal
	case errors.As(err, &missing), errors.As(err, &input), cerrdefs.IsInvalidArgument(err):
		k.Class = rpcerror.Config
	case errors.As(err, &source) && !errors.As(err, &vertex):
		k.Class = rpcerror.Config // a frontend has found fault with its lines
	default:
		k.Class = rpcerror.Other
	}
	return k
}
