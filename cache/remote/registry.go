package remote

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/distribution/reference"
	bksession "github.com/moby/buildkit/session"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// newRegistryExporter writes to a registry.
func newRegistryExporter(client *registry.Client, a *exporter.Attrs) (*Exporter, error) {
	ref, insecure := a.String("ref"), a.Bool("registry.insecure", false)
	opts, err := optionsFrom(a)
	if err != nil {
		return nil, err
	}
	named, err := cacheRef(ref)
	if err != nil {
		return nil, err
	}
	return &Exporter{name: "exporting cache to registry", opts: opts, open: func(_ context.Context, a exporter.Access) (store, error) {
		return &registryStore{client, registry.Target{Ref: named.String(), Insecure: insecure}, named, a.Group}, nil
	}}, nil
}

func cacheRef(ref string) (reference.Named, error) {
	if ref == "" {
		return nil, fmt.Errorf("a cache in a registry needs a name (ref=registry/repository:tag): %w", errdefs.ErrInvalidArgument)
	}
	return registry.ParseRef(ref)
}

type registryStore struct {
	client *registry.Client
	target registry.Target
	named  reference.Named
	group  bksession.Group
}

func (s *registryStore) blob(ctx context.Context, b snapshot.Blob, line *progress.Tracker) error {
	t := s.target
	t.Progress = func(d ocispec.Descriptor, sent int64, _ bool) { line.Set(sent, d.Size) }
	_, err := s.client.PushBlob(ctx, s.group, t, registry.Blob{
		Desc: b.Descriptor, From: b.From,
		Open: func(ctx context.Context) (io.ReadCloser, error) { return b.Open(ctx, s.group) },
	})
	if err == nil && b.Held != nil {
		b.Held(registry.Location{Repo: s.named.Name(), Insecure: s.target.Insecure})
	}
	return err
}

func (s *registryStore) manifest(ctx context.Context, d ocispec.Descriptor, data []byte) error {
	return s.client.PushManifestTo(ctx, s.group, s.target, d, data)
}

func (s *registryStore) finish(ctx context.Context, c contents, log *progress.Log) (map[string]string, error) {
	return finish(ctx, s, c, log)
}

func (s *registryStore) before(ctx context.Context) (*origin, error) {
	o, err := inRegistry(ctx, s.client, s.group, registry.Location{Repo: s.named.Name(), Insecure: s.target.Insecure}, s.named)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	return o, err
}

func (s *registryStore) place() string { return s.target.Ref }

// fromRegistry finds a cache, or an image that carries one, in a registry.
func (im *Imports) fromRegistry(ctx context.Context, g bksession.Group, attrs map[string]string) (*origin, error) {
	client := im.cfg.Registry
	named, err := cacheRef(attrs["ref"])
	if err != nil {
		return nil, err
	}
	loc := registry.Location{Repo: named.Name()}
	if v := attrs["registry.insecure"]; v != "" {
		if loc.Insecure, err = strconv.ParseBool(v); err != nil {
			return nil, fmt.Errorf("registry.insecure=%s is neither true nor false: %w", v, errdefs.ErrInvalidArgument)
		}
	}
	if v := attrs["remote-check"]; v != "" {
		check, err := strconv.ParseBool(v)
		if err != nil {
			return nil, fmt.Errorf("remote-check=%s is neither true nor false: %w", v, errdefs.ErrInvalidArgument)
		}
		if !check {
			im.trust(loc)
		}
	}
	return inRegistry(ctx, client, g, loc, named)
}

func inRegistry(ctx context.Context, client *registry.Client, g bksession.Group, loc registry.Location, named reference.Named) (*origin, error) {
	top, err := client.ResolveAt(ctx, g, loc, named)
	if err != nil {
		return nil, err
	}
	return &origin{
		name: reference.FamiliarString(named),
		top:  top,
		read: func(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
			return client.BytesAt(ctx, g, loc, d)
		},
		exists:  func(ctx context.Context, d ocispec.Descriptor) (bool, error) { return client.Exists(ctx, g, loc, d) },
		promise: func(l *snapshot.ImageLayer) { l.From = []registry.Location{loc} },
	}, nil
}
