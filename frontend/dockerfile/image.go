package dockerfile

import (
	"context"
	"errors"
	"sync"

	"github.com/containerd/platforms"
	spec "github.com/moby/docker-image-spec/specs-go/v1"

	"github.com/dbuild/dbuild/frontend"
)

// An imageFlight is one question about an image, and its answer once that was given.
type imageFlight struct {
	once sync.Once
	meta *frontend.ImageMeta
	img  *spec.DockerOCIImage
	err  error
}

// image asks for an image's config, once per request for each reference and platform.
// The config must not be changed.
func (l *loader) image(ctx context.Context, ref string, opt frontend.ResolveOpt) (*frontend.ImageMeta, *spec.DockerOCIImage, error) {
	key := ref + "|" + opt.Mode + "|" + opt.LogName
	if opt.Platform != nil {
		key += "|" + platforms.FormatAll(*opt.Platform)
	}
	for {
		l.imagesMu.Lock()
		f := l.images[key]
		if f == nil {
			f = &imageFlight{}
			l.images[key] = f
		}
		l.imagesMu.Unlock()
		f.once.Do(func() {
			if f.meta, f.err = l.bridge.ResolveImage(ctx, ref, opt); f.err == nil {
				f.img, f.err = parseConfig(ref, f.meta.Config)
			}
		})
		if f.err == nil || ctx.Err() != nil || !errors.Is(f.err, context.Canceled) {
			return f.meta, f.img, f.err
		}
		// Whoever asked was cancelled, not we: ask again.
		l.imagesMu.Lock()
		if l.images[key] == f {
			delete(l.images, key)
		}
		l.imagesMu.Unlock()
	}
}
