package image

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/distribution/reference"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Blob is any document in a registry or in a content store that a client lends.
type Blob struct {
	Ref    string // name and digest
	Digest digest.Digest

	layout *Layout // nil: in a registry
}

// ParseBlob reads the identifier of a blob: docker-image+blob://NAME@DIGEST or
// oci-layout+blob://NAME@DIGEST. A content store without a name is called NAME.
func ParseBlob(identifier string, lay Layout) (*Blob, error) {
	scheme, ref, _ := strings.Cut(identifier, "://")
	named, err := registry.ParseRef(ref)
	if err != nil {
		return nil, err
	}
	digested, ok := named.(reference.Digested)
	_, tagged := named.(reference.Tagged)
	if name, _, _ := strings.Cut(ref, "@"); !ok || tagged && strings.Contains(name[strings.LastIndexByte(name, '/')+1:], ":") {
		return nil, fmt.Errorf("blob %s needs a digest, and no tag: %w", ref, errdefs.ErrInvalidArgument)
	}
	b := &Blob{Ref: named.Name() + "@" + digested.Digest().String(), Digest: digested.Digest()}
	switch scheme {
	case "docker-image+blob":
	case "oci-layout+blob":
		if lay.StoreID == "" {
			lay.StoreID, _, _ = strings.Cut(ref, "@")
		}
		b.layout = &lay
	default:
		return nil, fmt.Errorf("%s is not a blob: want docker-image+blob:// or oci-layout+blob://: %w", identifier, errdefs.ErrInvalidArgument)
	}
	return b, nil
}

// Lent reports whether the blob is in a client's content store.
func (b *Blob) Lent() bool { return b.layout != nil }

// OpenBlob streams a blob, and says how many bytes it has. The caller verifies the digest.
func (s *Source) OpenBlob(ctx context.Context, g bksession.Group, b *Blob) (io.ReadCloser, int64, error) {
	if b.layout != nil {
		store, err := s.layoutStore(ctx, g, *b.layout)
		if err != nil {
			return nil, 0, err
		}
		ra, err := store.ReaderAt(ctx, ocispec.Descriptor{Digest: b.Digest})
		if err != nil {
			return nil, 0, fmt.Errorf("blob %s of the client's OCI layout: %w", b.Ref, err)
		}
		return section(ra, ra.Size()), ra.Size(), nil
	}
	loc, desc, err := s.cfg.Registry.Blob(ctx, g, b.Ref)
	if err != nil {
		return nil, 0, err
	}
	r, err := s.cfg.Registry.Open(ctx, g, []registry.Location{loc}, desc)
	return r, desc.Size, err
}
