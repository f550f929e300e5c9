package s3

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// Configs implements remote.Objects.
func (b *Bucket) Configs(ctx context.Context, limit int64) (all [][]byte, err error) {
	for _, name := range b.opts.names {
		rc, err := b.get(ctx, b.opts.configs+name, 0)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(io.LimitReader(rc, limit+1))
		rc.Close()
		if err != nil {
			return nil, b.explain(err)
		}
		if int64(len(data)) > limit {
			return nil, fmt.Errorf("%s: cache %q has more than the %d bytes allowed: %w", b, name, limit, errdefs.ErrInvalidArgument)
		}
		all = append(all, data)
	}
	return all, nil
}

// PutConfig implements remote.Objects.
func (b *Bucket) PutConfig(ctx context.Context, data []byte) error {
	for _, name := range b.opts.names {
		if err := b.upload(ctx, b.opts.configs+name, int64(len(data)), bytes.NewReader(data)); err != nil {
			return err
		}
	}
	return nil
}
