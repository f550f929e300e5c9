package worker

import (
	"fmt"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

// PermitNetwork says why a process may not have network n, whether an operation or a
// frontend asks for it. What this builder does not know is refused.
func (o LoadOptions) PermitNetwork(n pb.NetMode) error {
	switch n {
	case pb.NetMode_UNSET, pb.NetMode_NONE:
		return nil
	case pb.NetMode_HOST:
		return entitled(o.HostNetwork, "network.host")
	}
	return cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid network mode %d: this builder does not know it", n))
}

// PermitSecurity says why a process may not run in security mode s.
func (o LoadOptions) PermitSecurity(s pb.SecurityMode) error {
	switch s {
	case pb.SecurityMode_SANDBOX:
		return nil
	case pb.SecurityMode_INSECURE:
		return entitled(o.Insecure, "security.insecure")
	}
	return cerrdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("invalid security mode %d: this builder does not know it", s))
}

func entitled(granted bool, name string) error {
	if granted {
		return nil
	}
	return cerrdefs.ErrPermissionDenied.WithMessage(name + " is not allowed: pass --allow " + name + ", and the daemon must permit it")
}
