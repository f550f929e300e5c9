package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An origin is where a cache is read from.
type origin struct {
	name string // for people
	top  ocispec.Descriptor
	// read returns a document, verified.
	read func(context.Context, ocispec.Descriptor) ([]byte, error)
	// promise says where a layer can be had.
	promise func(*snapshot.ImageLayer)
	// exists asks whether a layer is there.
	exists func(context.Context, ocispec.Descriptor) (bool, error)
}

// maxManifests bounds how many images of an index are asked whether they carry a cache.
const maxManifests = 64

// load reads what is remembered there.
func (o *origin) load(ctx context.Context, log *progress.Log) (*memory, error) {
	data, err := o.read(ctx, o.top)
	if err != nil {
		return nil, err
	}
	l, err := parseListing(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.name, err)
	}
	log.Track("inferred cache manifest type: " + l.MediaType).Done()
	m := newMemory(o)
	if err := o.listed(ctx, m, l, false); err != nil {
		return nil, fmt.Errorf("%s: %w", o.name, err)
	}
	return m, nil
}

// A listing is a manifest or an index.
type listing struct {
	MediaType string               `json:"mediaType"`
	Config    ocispec.Descriptor   `json:"config"`
	Layers    []ocispec.Descriptor `json:"layers"`
	Manifests []ocispec.Descriptor `json:"manifests"`
}

func parseListing(data []byte) (*listing, error) {
	l := &listing{}
	if err := json.Unmarshal(data, l); err != nil {
		return nil, fmt.Errorf("invalid manifest: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	for _, d := range append(append([]ocispec.Descriptor{}, l.Layers...), l.Manifests...) {
		if err := d.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("invalid manifest: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	switch {
	case l.MediaType != "":
	case l.Manifests != nil:
		l.MediaType = ocispec.MediaTypeImageIndex
	default:
		l.MediaType = ocispec.MediaTypeImageManifest
	}
	return l, nil
}

// cache returns the config of a cache that stands for itself, and its layers.
func (l *listing) cache() (conf ocispec.Descriptor, layers []ocispec.Descriptor, ok bool) {
	if l.Config.MediaType == configType {
		return l.Config, l.Layers, true
	}
	for i, d := range l.Manifests {
		if d.MediaType == configType && images.IsIndexType(l.MediaType) {
			return d, append(l.Manifests[:i:i], l.Manifests[i+1:]...), true
		}
	}
	return conf, nil, false
}

// listed reads what stands in l into m: a cache, an image that carries one, or several.
func (o *origin) listed(ctx context.Context, m *memory, l *listing, deep bool) error {
	if conf, blobs, ok := l.cache(); ok {
		c, layers, err := o.config(ctx, conf, blobs)
		if err == nil {
			m.learn(c, layers)
		}
		return err
	}
	if !images.IsIndexType(l.MediaType) {
		return o.inline(ctx, m, l)
	}
	for i, d := range l.Manifests {
		if !images.IsManifestType(d.MediaType) || d.Annotations[attestation] != "" || deep || i == maxManifests {
			continue
		}
		data, err := o.read(ctx, d)
		if err != nil {
			return err
		}
		below, err := parseListing(data)
		if err != nil {
			return err
		}
		if err := o.listed(ctx, m, below, true); err != nil {
			return err
		}
	}
	return nil
}

// attestation marks a manifest that describes another one.
const attestation = "vnd.docker.reference.type"

// config reads the config of a cache, and returns its layers by digest.
func (o *origin) config(ctx context.Context, conf ocispec.Descriptor, blobs []ocispec.Descriptor) (*config, map[digest.Digest]snapshot.ImageLayer, error) {
	if err := conf.Digest.Validate(); err != nil {
		return nil, nil, fmt.Errorf("invalid manifest: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	data, err := o.read(ctx, conf)
	if err != nil {
		return nil, nil, err
	}
	c, err := parseConfig(data)
	if err != nil {
		return nil, nil, err
	}
	layers := map[digest.Digest]snapshot.ImageLayer{}
	for _, d := range blobs {
		diffID := digest.Digest(d.Annotations[labels.LabelUncompressed])
		if diffID.Validate() != nil {
			continue // of no use here
		}
		created, _ := time.Parse(time.RFC3339Nano, d.Annotations[noteCreated]) // zero if it does not say
		layers[d.Digest] = o.layer(d, diffID, created, d.Annotations[noteDescription])
	}
	return c, layers, nil
}

// inline reads the cache that an image carries, if it does.
func (o *origin) inline(ctx context.Context, m *memory, l *listing) error {
	if !images.IsConfigType(l.Config.MediaType) || l.Config.Digest.Validate() != nil {
		return nil
	}
	data, err := o.read(ctx, l.Config)
	if err != nil {
		return err
	}
	var img struct {
		RootFS  ocispec.RootFS    `json:"rootfs"`
		History []ocispec.History `json:"history"`
		Cache   []byte            `json:"moby.buildkit.cache.v0"`
	}
	if err := json.Unmarshal(data, &img); err != nil {
		return fmt.Errorf("invalid image config: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if img.Cache == nil || len(img.RootFS.DiffIDs) != len(l.Layers) {
		return nil
	}
	blobs := make([]digest.Digest, len(l.Layers))
	layers := map[digest.Digest]snapshot.ImageLayer{}
	var history []ocispec.History
	for _, h := range img.History {
		if !h.EmptyLayer {
			history = append(history, h)
		}
	}
	for i, d := range l.Layers {
		blobs[i] = d.Digest
		if img.RootFS.DiffIDs[i].Validate() != nil {
			continue
		}
		var created time.Time
		description := ""
		if len(history) == len(blobs) || i < len(history) {
			description = history[i].CreatedBy
			if t := history[i].Created; t != nil {
				created = *t
			}
		}
		layers[d.Digest] = o.layer(d, img.RootFS.DiffIDs[i], created, description)
	}
	c, err := parseInline(img.Cache, blobs)
	if err != nil {
		return err
	}
	m.learn(c, layers)
	return nil
}

// layer promises a layer.
func (o *origin) layer(d ocispec.Descriptor, diffID digest.Digest, created time.Time, description string) snapshot.ImageLayer {
	if description == "" {
		description = "imported from cache " + o.name
	}
	l := snapshot.ImageLayer{
		Blob:    ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size},
		DiffID:  diffID,
		Created: created,
		Cached:  true,
		Desc:    snapshot.Desc{Description: description},
	}
	o.promise(&l)
	return l
}
