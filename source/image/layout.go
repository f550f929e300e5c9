package image

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/distribution/reference"
	bksession "github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Layout names an OCI layout that a client lends to its build.
type Layout struct {
	SessionID string // "" for any session of the group
	StoreID   string // as the client calls it
}

// joinTimeout is how long a session may take to appear.
const joinTimeout = 5 * time.Second

// ResolveLayout is Resolve for an image in an OCI layout. ref must have a digest: tags
// of a layout are read by the client.
func (s *Source) ResolveLayout(ctx context.Context, g bksession.Group, lay Layout, ref string, platform *ocispec.Platform) (*Resolved, error) {
	named, err := registry.ParseRef(ref)
	if err != nil {
		return nil, err
	}
	digested, ok := named.(reference.Digested)
	if !ok {
		return nil, fmt.Errorf("image %s in an OCI layout needs a digest: %w", ref, errdefs.ErrInvalidArgument)
	}
	want := platforms.DefaultSpec()
	if platform != nil {
		want = platforms.Normalize(*platform)
	}
	store, err := s.layoutStore(ctx, g, lay)
	if err != nil {
		return nil, err
	}
	name := reference.FamiliarName(named) + "@" + digested.Digest().String()
	read := func(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
		return s.remembered(d, func() ([]byte, error) {
			b, err := readBlob(ctx, store, d)
			if errdefs.IsNotFound(err) {
				err = fmt.Errorf("image %s is not in the client's OCI layout: %w", name, errdefs.ErrNotFound)
			}
			return b, err
		})
	}
	top := ocispec.Descriptor{Digest: digested.Digest()}
	b, err := read(ctx, top)
	if err != nil {
		return nil, err
	}
	top.Size = int64(len(b))
	if top.MediaType, err = mediaTypeOf(b); err != nil {
		return nil, fmt.Errorf("image %s in an OCI layout: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	p := &picker{name: name, read: read}
	r, err := p.pick(ctx, top, want)
	if err != nil {
		return nil, err
	}
	r.name(named, top.Digest)
	r.top, r.read = top, func(ctx context.Context, g bksession.Group, d ocispec.Descriptor) ([]byte, error) {
		return s.remembered(d, func() ([]byte, error) {
			store, err := s.layoutStore(ctx, g, lay)
			if err != nil {
				return nil, err
			}
			return readBlob(ctx, store, d)
		})
	}
	for i := range r.Layers {
		desc := r.Layers[i].Blob
		r.Layers[i].Desc = snapshot.Desc{Description: "loaded from OCI layout " + name}
		r.Layers[i].Open = func(ctx context.Context, g bksession.Group) (io.ReadCloser, error) {
			store, err := s.layoutStore(ctx, g, lay)
			if err != nil {
				return nil, err
			}
			return openBlob(ctx, store, desc)
		}
	}
	return r, nil
}

// layoutStore returns the client's content store.
func (s *Source) layoutStore(ctx context.Context, g bksession.Group, lay Layout) (content.Provider, error) {
	ids := bksession.AllSessionIDs(g)
	if lay.SessionID != "" {
		ids = []string{lay.SessionID}
	}
	if s.cfg.Sessions == nil {
		ids = nil
	}
	for _, id := range ids {
		wait, cancel := context.WithTimeout(ctx, joinTimeout)
		c, err := s.cfg.Sessions.Get(wait, id, false)
		cancel()
		if err == nil && c != nil {
			return sessioncontent.NewCallerStore(c, "oci:"+lay.StoreID), nil
		}
	}
	return nil, fmt.Errorf("OCI layout %q: the client that lends it is gone: %w", lay.StoreID, errdefs.ErrUnavailable)
}

// readBlob reads a manifest, index or config and verifies it. The size may be unknown (0).
func readBlob(ctx context.Context, store content.Provider, d ocispec.Descriptor) ([]byte, error) {
	if d.Size > registry.MaxManifest {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d allowed: %w", d.Digest, d.Size, registry.MaxManifest, errdefs.ErrInvalidArgument)
	}
	ra, err := store.ReaderAt(ctx, d)
	if err != nil {
		return nil, err
	}
	defer ra.Close()
	if ra.Size() > registry.MaxManifest {
		return nil, fmt.Errorf("%s has %d bytes, more than the %d allowed: %w", d.Digest, ra.Size(), registry.MaxManifest, errdefs.ErrInvalidArgument)
	}
	b := make([]byte, ra.Size())
	if n, err := ra.ReadAt(b, 0); n < len(b) && err != nil {
		return nil, err
	}
	if got := digest.FromBytes(b); d.Digest.Algorithm() == digest.Canonical && got != d.Digest {
		return nil, fmt.Errorf("%s holds something else: %w", d.Digest, errdefs.ErrDataLoss)
	}
	return b, nil
}

// readAhead is how much is read from a client at once.
const readAhead = 1 << 20

func openBlob(ctx context.Context, store content.Provider, d ocispec.Descriptor) (io.ReadCloser, error) {
	ra, err := store.ReaderAt(ctx, d)
	if err != nil {
		return nil, err
	}
	return section(ra, d.Size), nil
}

func section(ra content.ReaderAt, size int64) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{bufio.NewReaderSize(io.NewSectionReader(ra, 0, size), readAhead), ra}
}

// mediaTypeOf tells an index from a manifest: the type in the document, or its shape.
func mediaTypeOf(b []byte) (string, error) {
	var v struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Config    json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return "", err
	}
	switch {
	case images.IsIndexType(v.MediaType) || images.IsManifestType(v.MediaType):
		return v.MediaType, nil
	case v.MediaType == "" && v.Manifests != nil:
		return ocispec.MediaTypeImageIndex, nil
	case v.MediaType == "" && v.Config != nil:
		return ocispec.MediaTypeImageManifest, nil
	}
	return "", fmt.Errorf("it is neither a manifest nor an index (%q)", v.MediaType)
}
