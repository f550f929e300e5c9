package daemon

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// NewContainer implements frontend.Bridge.
func (b *build) NewContainer(ctx context.Context, r frontend.ContainerRequest) (frontend.Container, error) {
	refs := make([]solver.Ref, len(r.Mounts))
	for i, m := range r.Mounts {
		if m.Ref == nil {
			continue
		}
		mr, ok := m.Ref.(*ref)
		if !ok || mr.b != b {
			return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("mount %d shows a result that is not of this build", i))
		}
		var err error
		if refs[i], err = mr.result(ctx); err != nil {
			return nil, err
		}
	}
	c, err := b.d.worker.NewContainer(ctx, r, worker.ContainerOptions{
		Refs: refs, Access: snapshot.Access{Group: b.group()}, Permit: b.load, Proxy: b.proxy(),
	})
	if err != nil {
		return nil, err
	}
	return b.keep(&container{c})
}

// keep has a container released when the build ends.
func (b *build) keep(c *container) (frontend.Container, error) {
	b.mu.Lock()
	ended := b.ended
	if !ended {
		b.containers = append(b.containers, c)
	}
	b.mu.Unlock()
	if ended {
		_ = c.Release(context.Background())
		return nil, errdefs.ErrFailedPrecondition.WithMessage("the build has ended")
	}
	return c, nil
}

// A container reads its files for frontends.
type container struct{ *worker.Container }

var _ frontend.Container = (*container)(nil)

// ReadFile implements frontend.Container.
func (c *container) ReadFile(_ context.Context, mount int, path string, offset, length int64) ([]byte, error) {
	tree, done, err := c.Open(mount)
	if err != nil {
		return nil, err
	}
	defer done()
	return readPart(tree, path, offset, length)
}

// ReadDir implements frontend.Container.
func (c *container) ReadDir(_ context.Context, mount int, path, include string) ([]*fstypes.Stat, error) {
	tree, done, err := c.Open(mount)
	if err != nil {
		return nil, err
	}
	defer done()
	return readDir(tree, path, include)
}

// StatFile implements frontend.Container.
func (c *container) StatFile(_ context.Context, mount int, path string) (*fstypes.Stat, error) {
	tree, done, err := c.Open(mount)
	if err != nil {
		return nil, err
	}
	defer done()
	return statFile(tree, path)
}
