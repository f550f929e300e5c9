package localimage

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/closedstore"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A part is what belongs to one image in a store that has more.
type part struct {
	closedstore.Store
	from  content.InfoReaderProvider
	blobs map[digest.Digest]bool
}

// Only returns of a store what belongs to an image, for reading. Manifests that an index
// names need not be there.
func Only(ctx context.Context, from content.InfoReaderProvider, image ocispec.Descriptor) (content.Store, error) {
	p := &part{from: from, blobs: map[digest.Digest]bool{}}
	err := images.Walk(ctx, images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		p.blobs[d.Digest] = true
		children, err := images.Children(ctx, from, d)
		if errdefs.IsNotFound(err) {
			return nil, nil
		}
		return children, err
	}), image)
	return p, err
}

// Info implements content.InfoProvider.
func (p *part) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	if !p.blobs[d] {
		return content.Info{}, fmt.Errorf("%s is not part of the image: %w", d, errdefs.ErrNotFound)
	}
	return p.from.Info(ctx, d)
}

// ReaderAt implements content.Provider.
func (p *part) ReaderAt(ctx context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	if !p.blobs[d.Digest] {
		return nil, fmt.Errorf("%s is not part of the image: %w", d.Digest, errdefs.ErrNotFound)
	}
	return p.from.ReaderAt(ctx, d)
}
