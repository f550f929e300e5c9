package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// keepUnpushed keeps an image that could not be pushed in the image store, so that the push
// can be repeated alone. Its names have its digest, so that nobody takes them for what the
// registry has under the tag.
func (e *Exporter) keepUnpushed(ctx context.Context, src exporter.Source, img *exporter.Image, names []string, cause error) error {
	var lost *snapshot.LostError
	if errors.As(cause, &lost) || ctx.Err() != nil {
		return cause // it is made again, or nobody wants it any more
	}
	pinned := make([]string, len(names))
	for i, n := range names {
		pinned[i] = withDigest(n, img.Top.Digest)
	}
	kept := *e
	kept.canonical, kept.dangling = false, ""
	src.Recall = nil
	if err := kept.nameAll(ctx, src, img, pinned, nil); err != nil {
		return cause
	}
	return fmt.Errorf("%w (the image is kept: \"dbuild push %s\" repeats the push alone)", cause, names[0])
}

// dropUnpushed forgets what keepUnpushed kept of an image, now that it is pushed.
func (e *Exporter) dropUnpushed(ctx context.Context, names []string, d digest.Digest) error {
	for _, n := range names {
		_, err := e.cfg.Store.GetImage(ctx, withDigest(n, d))
		if _, own := e.cfg.Store.GetImage(ctx, n); err != nil || own == nil {
			continue // nothing is kept; or somebody asked for both names
		}
		if err := e.cfg.Store.RemoveImage(ctx, withDigest(n, d)); err != nil {
			return err
		}
	}
	return nil
}

func withDigest(name string, d digest.Digest) string {
	name, _, _ = strings.Cut(name, "@")
	return name + "@" + d.String()
}

// A Pusher pushes an image of the image store as it is.
type Pusher struct {
	e    *Exporter
	from string
}

var _ exporter.Exporter = (*Pusher)(nil)

// NewPusher returns a Pusher for one request: the image called from goes to the names of
// name, or to its own.
func NewPusher(cfg Config, attrs map[string]string) (*Pusher, error) {
	a := exporter.NewAttrs("push", attrs)
	p := &Pusher{from: a.String("from"), e: &Exporter{
		cfg: cfg, names: a.String("name"), push: true,
		insecure: a.Bool("registry.insecure", false),
		noMount:  a.Bool("disable-cross-repo-mount", false),
	}}
	if err := a.Done(); err != nil {
		return nil, err
	}
	if p.from == "" {
		return nil, errors.New("push exporter: which image? (from=NAME)")
	}
	return p, nil
}

// Name implements exporter.Exporter.
func (p *Pusher) Name() string { return "pushing " + p.from }

// Export implements exporter.Exporter. The result of the build does not matter.
func (p *Pusher) Export(ctx context.Context, src exporter.Source, a exporter.Access) (map[string]string, error) {
	found, err := p.find(ctx)
	if err != nil {
		return nil, err
	}
	img, release, err := stored(ctx, p.e.cfg.Store, found)
	defer release()
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", familiar(found.Name), err)
	}
	list := p.e.names
	if list == "" {
		if list, _, _ = strings.Cut(found.Name, "@"); list == "" {
			list = p.from
		}
	}
	names, err := src.Names(list)
	if err != nil {
		return nil, err
	}
	if err := p.e.pushAll(ctx, img, names, a); err != nil {
		return nil, err
	}
	if err := p.e.dropUnpushed(ctx, names, img.Top.Digest); err != nil {
		return nil, err
	}
	resp, err := img.Response()
	if err != nil {
		return nil, err
	}
	resp[exporter.RespName] = strings.Join(names, ",")
	return resp, nil
}

// find returns the image of a name, or the newest that was kept under it with its digest.
func (p *Pusher) find(ctx context.Context) (*snapshot.Image, error) {
	named, err := reference.ParseNormalizedNamed(p.from)
	if err != nil {
		return nil, fmt.Errorf("%s is not a valid image name: %w: %w", p.from, err, errdefs.ErrInvalidArgument)
	}
	if reference.IsNameOnly(named) {
		named = reference.TagNameOnly(named)
	}
	all, err := p.e.cfg.Store.Images(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(i snapshot.Image) bool {
		return i.Name != named.String() && !strings.HasPrefix(i.Name, named.String()+"@")
	})
	if len(all) == 0 {
		return nil, fmt.Errorf("image %s is not in the image store, so there is nothing to push: %w", familiar(named.String()), errdefs.ErrNotFound)
	}
	slices.SortStableFunc(all, func(a, b snapshot.Image) int { return b.Created.Compare(a.Created) })
	return &all[0], nil
}

func familiar(name string) string {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(named)
}

// stored reads an image of the store: its documents, and where its layers are.
func stored(ctx context.Context, s *snapshot.Store, i *snapshot.Image) (img *exporter.Image, release func(), err error) {
	var refs []*snapshot.Ref
	release = func() {
		for _, r := range refs {
			r.Release()
		}
	}
	read := func(d ocispec.Descriptor, into any) ([]byte, error) {
		b, err := content.ReadBlob(ctx, s.Content(), d)
		if err == nil && into != nil {
			err = json.Unmarshal(b, into)
		}
		return b, err
	}
	one := func(d ocispec.Descriptor) (m exporter.Manifest, err error) {
		var doc ocispec.Manifest
		m.Desc = d
		if m.Data, err = read(d, &doc); err != nil {
			return m, err
		}
		var config ocispec.Image
		m.Config = doc.Config
		if m.ConfigData, err = read(doc.Config, &config); err != nil {
			return m, err
		}
		if len(doc.Layers) == 0 {
			return m, nil
		}
		digests := make([]digest.Digest, len(doc.Layers))
		for k, l := range doc.Layers {
			digests[k] = l.Digest
		}
		if images.IsLayerType(doc.Layers[0].MediaType) && len(config.RootFS.DiffIDs) == len(digests) {
			r, err := s.LayersOf(ctx, config.RootFS.DiffIDs)
			if err != nil {
				return m, err
			}
			refs = append(refs, r)
			if m.Layers, err = r.BlobsNamed(digests); err != nil {
				return m, err
			}
			for k := range m.Layers {
				m.Layers[k].Descriptor = doc.Layers[k]
			}
			return m, nil
		}
		for _, l := range doc.Layers { // statements
			b, err := read(l, nil)
			if err != nil {
				return m, err
			}
			m.Layers = append(m.Layers, exporter.MemoryBlob(l, b))
		}
		return m, nil
	}
	img = &exporter.Image{Top: i.Target}
	if created := i.Created; !created.Equal(time.Time{}) {
		img.Created = &created
	}
	if !images.IsIndexType(i.Target.MediaType) {
		m, err := one(i.Target)
		img.Manifests = []exporter.Manifest{m}
		return img, release, err
	}
	var index ocispec.Index
	if img.Index, err = read(i.Target, &index); err != nil {
		return nil, release, err
	}
	for _, d := range index.Manifests {
		m, err := one(d)
		if err != nil {
			return nil, release, err
		}
		img.Manifests = append(img.Manifests, m)
	}
	return img, release, nil
}
