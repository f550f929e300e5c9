package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Objects is a place that keeps objects under keys and knows no manifests, such as a bucket:
// blobs by digest, and configs by names that the place was given. The config of such a cache
// says of its layers what a manifest would. Methods are called concurrently; their errors
// name the place.
type Objects interface {
	// Open reads a blob from an offset on. Nobody has verified it. One that is not there is
	// errdefs.ErrNotFound.
	Open(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, error)
	Has(ctx context.Context, d digest.Digest) (bool, error)
	// Put writes what open returns, unless the blob is there already. If that cannot be read
	// to its end there is no blob.
	Put(ctx context.Context, d ocispec.Descriptor, open func(context.Context) (io.ReadCloser, error)) error
	// Configs returns those of the configs that are there. None may have more than limit bytes.
	Configs(ctx context.Context, limit int64) ([][]byte, error)
	PutConfig(ctx context.Context, data []byte) error
}

// An OpenObjects takes from attrs what says where a place is and how it is used. Nothing is
// asked of the place yet.
type OpenObjects func(attrs *exporter.Attrs) (Objects, error)

// maxConfig is the largest config that is read of a place of objects, in bytes.
const maxConfig = 64 << 20

// titles are what exporters to objects are called.
var titles = map[string]string{"s3": "Amazon S3", "azblob": "Azure Blob Storage", "gha": "GitHub Actions Cache"}

func newObjectsExporter(kind string, open OpenObjects, a *exporter.Attrs) (*Exporter, error) {
	to, err := open(a)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("cache in %s: %v", titles[kind], err))
	}
	opts, err := optionsFrom(a)
	if err != nil {
		return nil, err
	}
	if opts.builds > 0 {
		return nil, errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf("not implemented: append=true for a cache in %s", titles[kind]))
	}
	return &Exporter{name: "exporting cache to " + titles[kind], opts: opts, open: func(_ context.Context, a exporter.Access) (store, error) {
		return &objectStore{to, a.Group}, nil
	}}, nil
}

type objectStore struct {
	to    Objects
	group bksession.Group
}

func (s *objectStore) blob(ctx context.Context, b snapshot.Blob, line *progress.Tracker) error {
	var cause error // of what cannot be read
	err := s.to.Put(ctx, b.Descriptor, func(ctx context.Context) (io.ReadCloser, error) {
		rc, err := b.Open(ctx, s.group)
		if err != nil {
			cause = err
			return nil, err
		}
		return &checked{ReadCloser: rc, blob: b.Descriptor, sum: b.Digest.Verifier(), line: line, cause: &cause}, nil
	})
	if err != nil && cause != nil {
		return cause
	}
	return err
}

// finish writes the config alone.
func (s *objectStore) finish(ctx context.Context, c contents, log *progress.Log) (map[string]string, error) {
	for i := range c.Layers {
		b := c.blobs[c.Layers[i].Blob]
		c.Layers[i].About = &about{MediaType: b.MediaType, DiffID: b.DiffID, Size: b.Size, Created: b.Created.UTC()}
	}
	data, err := json.Marshal(c.config)
	if err != nil {
		return nil, err
	}
	line := log.Track("writing config " + digest.FromBytes(data).String())
	if err := s.to.PutConfig(ctx, data); err != nil {
		return nil, fmt.Errorf("write the config of the cache: %w", err)
	}
	line.Done()
	return nil, nil
}

// loadObjects reads the configs of a place.
func loadObjects(ctx context.Context, open OpenObjects, e Entry) (*memory, error) {
	from, err := open(exporter.NewAttrs(e.Type+" cache", e.Attrs))
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("cache in %s: %v", titles[e.Type], err))
	}
	configs, err := from.Configs(ctx, maxConfig)
	if err != nil {
		return nil, err
	}
	if len(configs) == 0 {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("there is no cache in %s yet", e.Name()))
	}
	o := &origin{
		name:   e.Name(),
		exists: func(ctx context.Context, d ocispec.Descriptor) (bool, error) { return from.Has(ctx, d.Digest) },
		promise: func(l *snapshot.ImageLayer) {
			d := l.Blob
			l.Open = func(ctx context.Context, _ bksession.Group) (io.ReadCloser, error) {
				return resume(ctx, d.Size, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
					return from.Open(ctx, d.Digest, offset)
				})
			}
		},
	}
	m := newMemory(o)
	for _, data := range configs {
		c, err := parseConfig(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", o.name, err)
		}
		layers := map[digest.Digest]snapshot.ImageLayer{}
		for _, l := range c.Layers {
			a := l.About
			if a == nil || a.Size < 0 || a.DiffID.Validate() != nil {
				continue // of no use here
			}
			d := ocispec.Descriptor{MediaType: a.MediaType, Digest: l.Blob, Size: a.Size}
			layers[l.Blob] = o.layer(d, a.DiffID, a.Created, "")
		}
		m.learn(c, layers)
	}
	return m, nil
}
