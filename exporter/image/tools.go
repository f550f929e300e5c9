package image

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/distribution/reference"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Tools make one image of several that exist in registries, and look at them. Manifests are
// read; blobs are mounted within a registry, and streamed between two.
type Tools struct {
	client   *registry.Client
	sources  []string
	names    string
	insecure bool
	copyOne  bool // a single image stays what it is
	notes    exporter.Annotations
}

var _ exporter.Exporter = (*Tools)(nil)

// RespManifest is where Tools put the document that the name stands for.
const RespManifest = "imagetools.manifest"

// NewTools returns Tools for one request: source.0, source.1, ... are images, name is what
// the whole is to be called. Without a name nothing is written.
func NewTools(client *registry.Client, attrs map[string]string) (*Tools, error) {
	a := exporter.NewAttrs("imagetools", attrs)
	t := &Tools{
		client: client, names: a.String("name"), insecure: a.Bool("registry.insecure", false),
		copyOne: a.Bool("copy", false), notes: exporter.Annotations{},
	}
	for i := 0; ; i++ {
		s := a.String("source." + strconv.Itoa(i))
		if s == "" {
			break
		}
		t.sources = append(t.sources, s)
	}
	for k, v := range a.Prefixed(exporter.IsAnnotation) {
		if err := t.notes.Set(k, v); err != nil {
			return nil, err
		}
	}
	if err := a.Done(); err != nil {
		return nil, err
	}
	for _, n := range t.notes {
		if len(n.Manifest)+len(n.ManifestDescriptor)+len(n.IndexDescriptor) > 0 {
			return nil, errors.New("imagetools exporter: manifests stay as they are: only the index can be annotated (index:KEY=VALUE)")
		}
	}
	if len(t.sources) == 0 {
		return nil, errors.New("imagetools exporter: which images? (source.0=NAME)")
	}
	return t, nil
}

// Name implements exporter.Exporter.
func (t *Tools) Name() string { return "combining images" }

// A piece is an image that the new one consists of.
type piece struct {
	desc ocispec.Descriptor
	from registry.Location
	data []byte
}

// Export implements exporter.Exporter. The result of the build does not matter.
func (t *Tools) Export(ctx context.Context, src exporter.Source, a exporter.Access) (map[string]string, error) {
	names, err := src.Names(t.names)
	if err != nil {
		return nil, err
	}
	var pieces []piece
	for _, s := range t.sources {
		p, err := t.read(ctx, a.Group, s)
		if err != nil {
			return nil, err
		}
		pieces = append(pieces, p)
	}
	top, pieces, err := t.combine(ctx, a.Group, pieces)
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		line := a.Log.Track("pushing manifest for " + n + "@" + top.desc.Digest.String())
		if err := t.put(ctx, a.Group, n, top, pieces); err != nil {
			return nil, err
		}
		line.Done()
	}
	d, err := json.Marshal(top.desc)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		RespManifest:            string(top.data),
		exporter.RespDigest:     top.desc.Digest.String(),
		exporter.RespDescriptor: base64.StdEncoding.EncodeToString(d),
		exporter.RespName:       strings.Join(names, ","),
	}, nil
}

// read returns what a name stands for.
func (t *Tools) read(ctx context.Context, g bksession.Group, ref string) (p piece, err error) {
	named, err := registry.ParseRef(ref)
	if err != nil {
		return p, err
	}
	p.from = registry.Location{Repo: named.Name(), Insecure: t.insecure}
	if p.desc, err = t.client.ResolveAt(ctx, g, p.from, named); err != nil {
		return p, err
	}
	p.data, err = t.client.BytesAt(ctx, g, p.from, p.desc)
	return p, err
}

// combine makes an index of images and of the parts of those that are indexes.
func (t *Tools) combine(ctx context.Context, g bksession.Group, from []piece) (top piece, parts []piece, err error) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: images.MediaTypeDockerSchema2ManifestList}
	seen := map[digest.Digest]bool{}
	notes := t.notes.All()
	add := func(d ocispec.Descriptor, loc registry.Location, data []byte) {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			index.Manifests = append(index.Manifests, d)
			parts = append(parts, piece{d, loc, data})
		}
	}
	for _, p := range from {
		if p.desc.MediaType == ocispec.MediaTypeImageManifest || p.desc.MediaType == ocispec.MediaTypeImageIndex {
			index.MediaType = ocispec.MediaTypeImageIndex
		}
		if !images.IsIndexType(p.desc.MediaType) {
			d, err := t.describe(ctx, g, p)
			if err != nil {
				return top, nil, err
			}
			add(d, p.from, p.data)
			continue
		}
		var inner ocispec.Index
		if err := json.Unmarshal(p.data, &inner); err != nil {
			return top, nil, fmt.Errorf("index %s: %w", p.desc.Digest, err)
		}
		for _, d := range inner.Manifests {
			add(d, p.from, nil)
		}
		if len(from) == 1 && len(notes.Index) == 0 {
			return p, parts, nil // it is one already
		}
	}
	if t.copyOne && len(from) == 1 {
		return from[0], parts, nil
	}
	if index.MediaType == ocispec.MediaTypeImageIndex {
		index.Annotations = notes.Index
	}
	if top.data, err = json.MarshalIndent(index, "", "  "); err != nil {
		return top, nil, err
	}
	top.desc = ocispec.Descriptor{MediaType: index.MediaType, Digest: digest.FromBytes(top.data), Size: int64(len(top.data))}
	return top, parts, nil
}

// describe adds the platform, which the config says.
func (t *Tools) describe(ctx context.Context, g bksession.Group, p piece) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: p.desc.MediaType, Digest: p.desc.Digest, Size: p.desc.Size}
	var m ocispec.Manifest
	if err := json.Unmarshal(p.data, &m); err != nil {
		return d, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if !images.IsConfigType(m.Config.MediaType) {
		return d, nil
	}
	b, err := t.client.BytesAt(ctx, g, p.from, m.Config)
	if err != nil {
		return d, err
	}
	var platform ocispec.Platform
	if err := json.Unmarshal(b, &platform); err != nil {
		return d, fmt.Errorf("config of %s: %w", d.Digest, err)
	}
	platform = platforms.Normalize(platform)
	d.Platform = &platform
	return d, nil
}

// put sees that the repository of a name has all parts, and points the name to the whole.
func (t *Tools) put(ctx context.Context, g bksession.Group, name string, top piece, parts []piece) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	eg, gctx := errgroup.WithContext(ctx)
	eg.SetLimit(4)
	for _, p := range parts {
		if p.from.Repo != named.Name() {
			eg.Go(func() error { return t.copy(gctx, g, named.Name(), p) })
		}
	}
	if err := eg.Wait(); err != nil {
		return err
	}
	return t.client.PushManifestTo(ctx, g, registry.Target{Ref: name, Insecure: t.insecure}, top.desc, top.data)
}

// copy puts a manifest, and what it names, into a repository.
func (t *Tools) copy(ctx context.Context, g bksession.Group, repo string, p piece) (err error) {
	to := registry.Location{Repo: repo, Insecure: t.insecure}
	if there, err := t.client.Exists(ctx, g, to, p.desc); err == nil && there {
		return nil
	}
	if p.data == nil {
		if p.data, err = t.client.BytesAt(ctx, g, p.from, p.desc); err != nil {
			return err
		}
	}
	at := registry.Target{Ref: repo + "@" + p.desc.Digest.String(), Insecure: t.insecure}
	if images.IsIndexType(p.desc.MediaType) {
		var index ocispec.Index
		if err := json.Unmarshal(p.data, &index); err != nil {
			return fmt.Errorf("index %s: %w", p.desc.Digest, err)
		}
		for _, d := range index.Manifests {
			if err := t.copy(ctx, g, repo, piece{desc: d, from: p.from}); err != nil {
				return err
			}
		}
		return t.client.PushManifestTo(ctx, g, at, p.desc, p.data)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(p.data, &m); err != nil {
		return fmt.Errorf("manifest %s: %w", p.desc.Digest, err)
	}
	var blobs []registry.Blob
	for _, d := range slices.Concat(m.Layers, []ocispec.Descriptor{m.Config}) {
		blobs = append(blobs, registry.Blob{Desc: d, From: []registry.Location{p.from}})
	}
	if err := t.client.PushTo(ctx, g, registry.Target{Ref: repo, Insecure: t.insecure}, blobs...); err != nil {
		return err
	}
	return t.client.PushManifestTo(ctx, g, at, p.desc, p.data)
}
