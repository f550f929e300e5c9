package daemon

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
)

// NewContainer implements frontend.Bridge.
func (b *build) NewContainer(_ context.Context, r frontend.ContainerRequest) (frontend.Container, error) {
	if err := b.load.PermitNetwork(r.Network); err != nil {
		return nil, err
	}
	return nil, errdefs.ErrNotImplemented.WithMessage("not implemented: gateway containers")
}
