package engine

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Image is one that an engine has.
type Image struct {
	ID       string
	Size     int64 // of its files, in bytes
	Platform ocispec.Platform
}

// Image looks an image up by its name or id. There being none is errdefs.ErrNotFound.
func (e *Engine) Image(ctx context.Context, name string) (Image, error) {
	img, err := e.c.ImageInspect(ctx, name)
	if errdefs.IsNotFound(err) {
		return Image{}, fmt.Errorf("docker has no image %s: %w", name, errdefs.ErrNotFound)
	}
	if err != nil {
		return Image{}, e.explain(err)
	}
	return Image{ID: img.ID, Size: img.Size, Platform: ocispec.Platform{OS: img.Os, Architecture: img.Architecture, Variant: img.Variant}}, nil
}

// Save returns an image as docker save writes it.
func (e *Engine) Save(ctx context.Context, id string) (io.ReadCloser, error) {
	r, err := e.c.ImageSave(ctx, []string{id})
	if err != nil {
		return nil, e.explain(err)
	}
	return r, nil
}
