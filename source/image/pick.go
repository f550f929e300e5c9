package image

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/internal/snapshot"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxDepth bounds indexes in indexes.
const maxDepth = 4

// attestationKey marks a manifest that describes another one; see BuildKit's "Image
// attestation storage".
const attestationKey = "vnd.docker.reference.type"

// A picker finds the manifest for a platform below what a name points to.
type picker struct {
	name   string // for people
	strict bool   // the platform of an image that is not in an index counts, too
	read   func(context.Context, ocispec.Descriptor) ([]byte, error)
}

// pick returns the image for a platform. It is an ErrNotFound if there is none.
func (p *picker) pick(ctx context.Context, top ocispec.Descriptor, want ocispec.Platform) (*Resolved, error) {
	if !isIndex(top.MediaType) {
		r, err := p.manifest(ctx, top)
		if err == nil && p.strict && !platforms.Only(want).Match(r.Platform) {
			return nil, p.none(want, []string{platforms.FormatAll(r.Platform)})
		}
		// An image without an index is taken as it is: many say nothing useful about
		// their platform, and the Dockerfile frontend warns.
		return r, err
	}
	all, err := p.list(ctx, top, 1)
	if err != nil {
		return nil, err
	}
	match := platforms.Only(want)
	var found []ocispec.Descriptor
	var has []string
	for _, d := range all {
		if d.Platform == nil {
			continue
		}
		if match.Match(*d.Platform) {
			found = append(found, d)
		}
		has = append(has, platforms.FormatAll(platforms.Normalize(*d.Platform)))
	}
	if len(found) > 0 {
		slices.SortStableFunc(found, func(a, b ocispec.Descriptor) int {
			switch {
			case match.Less(*a.Platform, *b.Platform):
				return -1
			case match.Less(*b.Platform, *a.Platform):
				return 1
			}
			return 0
		})
		return p.manifest(ctx, found[0])
	}
	// Indexes made by hand may say nothing about platforms; the configs do.
	for _, d := range all {
		if d.Platform != nil {
			continue
		}
		r, err := p.manifest(ctx, d)
		if err != nil {
			return nil, err
		}
		if match.Match(r.Platform) {
			return r, nil
		}
		has = append(has, platforms.FormatAll(r.Platform))
	}
	return nil, p.none(want, has)
}

func (p *picker) none(want ocispec.Platform, has []string) error {
	slices.Sort(has)
	has = slices.Compact(has)
	return &platformError{name: p.name, want: platforms.FormatAll(want), has: has}
}

// platformError says that an image is there, but not for the platform. It is an
// errdefs.ErrNotFound.
type platformError struct {
	name, want string
	has        []string
}

func (e *platformError) Error() string {
	what := "it is empty"
	if len(e.has) > 0 {
		what = "it has " + strings.Join(e.has, ", ")
	}
	return fmt.Sprintf("image %s has nothing for platform %s (%s)", e.name, e.want, what)
}

func (e *platformError) Unwrap() error { return errdefs.ErrNotFound }

// list returns the manifests of images in an index.
func (p *picker) list(ctx context.Context, d ocispec.Descriptor, depth int) ([]ocispec.Descriptor, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("image %s: indexes are nested too deeply: %w", p.name, errdefs.ErrInvalidArgument)
	}
	b, err := p.read(ctx, d)
	if err != nil {
		return nil, err
	}
	var idx ocispec.Index
	if err := json.Unmarshal(b, &idx); err != nil {
		return nil, p.malformed("index", err)
	}
	var out []ocispec.Descriptor
	for _, m := range idx.Manifests {
		switch {
		case m.Annotations[attestationKey] != "":
		case m.Digest.Validate() != nil:
			return nil, p.malformed("index", m.Digest.Validate())
		case images.IsManifestType(m.MediaType):
			out = append(out, m)
		case isIndex(m.MediaType):
			more, err := p.list(ctx, m, depth+1)
			if err != nil {
				return nil, err
			}
			for i := range more {
				if more[i].Platform == nil {
					more[i].Platform = m.Platform
				}
			}
			out = append(out, more...)
		}
	}
	return out, nil
}

// manifest reads a manifest and its config.
func (p *picker) manifest(ctx context.Context, d ocispec.Descriptor) (*Resolved, error) {
	b, err := p.read(ctx, d)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, p.malformed("manifest", err)
	}
	if !images.IsConfigType(m.Config.MediaType) || m.Config.Digest.Validate() != nil {
		return nil, fmt.Errorf("image %s is not a container image (its config is of type %q): %w", p.name, m.Config.MediaType, errdefs.ErrInvalidArgument)
	}
	config, err := p.read(ctx, m.Config)
	if err != nil {
		return nil, err
	}
	var img ocispec.Image
	if err := json.Unmarshal(config, &img); err != nil {
		return nil, p.malformed("config", err)
	}
	if len(img.RootFS.DiffIDs) != len(m.Layers) {
		return nil, p.malformed("config", fmt.Errorf("it has %d layers, the manifest %d", len(img.RootFS.DiffIDs), len(m.Layers)))
	}
	r := &Resolved{Manifest: d, Platform: platforms.Normalize(img.Platform), Config: config}
	for i, l := range m.Layers {
		if err := l.Digest.Validate(); err != nil {
			return nil, p.malformed("manifest", err)
		}
		if err := img.RootFS.DiffIDs[i].Validate(); err != nil {
			return nil, p.malformed("config", err)
		}
		if !images.IsNonDistributable(l.MediaType) {
			l.URLs = nil
		}
		r.Layers = append(r.Layers, snapshot.ImageLayer{Blob: l, DiffID: img.RootFS.DiffIDs[i]})
	}
	return r, nil
}

func (p *picker) malformed(what string, err error) error {
	return fmt.Errorf("image %s has an invalid %s: %w: %w", p.name, what, err, errdefs.ErrInvalidArgument)
}
