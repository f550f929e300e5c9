package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/registry"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotations of the "Image attestation storage" of BuildKit, and of in-toto layers.
const (
	attestationType  = "attestation-manifest" // of attestationKey
	attestationOf    = "vnd.docker.reference.digest"
	predicateTypeKey = "in-toto.io/predicate-type"
)

// bundleTypes are the artifact types of signatures.
var bundleTypes = []string{
	"application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.dev.sigstore.bundle+json;version=0.3",
	"application/vnd.dev.cosign.artifact.sig.v1+json",
}

// Limits of a chain.
const (
	maxSignatures = 16
	maxStatements = 32
)

// A Chain is what vouches for an image: the index names an attestation manifest beside the
// image's, and signatures refer to that.
type Chain struct {
	Root        digest.Digest // of the index, or of the manifest
	Manifest    digest.Digest
	Attestation digest.Digest   // "" if there is none
	Signatures  []digest.Digest // of manifests
	// Blobs are the documents of the chain, by digest: root, attestation manifest,
	// signatures, and the statements that were asked for.
	Blobs map[digest.Digest]Document
}

// A Document is a blob and how it is described.
type Document struct {
	Descriptor ocispec.Descriptor
	Data       []byte
}

// Chain returns the attestation chain of an image, with its statements of the given
// predicate types.
func (s *Source) Chain(ctx context.Context, g bksession.Group, r *Resolved, predicates []string) (*Chain, error) {
	c := &Chain{Root: r.Digest, Manifest: r.Manifest.Digest, Blobs: map[digest.Digest]Document{}}
	get := func(d ocispec.Descriptor) ([]byte, error) {
		b, err := r.read(ctx, g, d)
		if err != nil {
			return nil, fmt.Errorf("attestations of image %s: %w", r.Name, err)
		}
		d.Size = int64(len(b))
		c.Blobs[d.Digest] = Document{Descriptor: d, Data: b}
		return b, nil
	}
	if !isIndex(r.top.MediaType) {
		return c, nil
	}
	b, err := get(r.top)
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(b, &index); err != nil {
		return nil, fmt.Errorf("image %s has an invalid index: %w: %w", r.Name, err, errdefs.ErrInvalidArgument)
	}
	i := slices.IndexFunc(index.Manifests, func(d ocispec.Descriptor) bool {
		return d.Annotations[attestationKey] == attestationType && d.Annotations[attestationOf] == r.Manifest.Digest.String() &&
			images.IsManifestType(d.MediaType) && d.Digest.Validate() == nil
	})
	if i < 0 {
		return c, nil
	}
	attestation := index.Manifests[i]
	if b, err = get(attestation); err != nil {
		return nil, err
	}
	c.Attestation = attestation.Digest
	var m ocispec.Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("image %s has an invalid attestation manifest: %w: %w", r.Name, err, errdefs.ErrInvalidArgument)
	}
	read := 0
	for _, l := range m.Layers {
		if !slices.Contains(predicates, l.Annotations[predicateTypeKey]) {
			continue
		}
		if read++; read > maxStatements {
			return nil, fmt.Errorf("image %s has more than %d attestations of one kind: %w", r.Name, maxStatements, errdefs.ErrInvalidArgument)
		}
		if _, err := get(l); err != nil {
			return nil, err
		}
	}
	if r.stored {
		return c, nil
	}
	return c, s.signatures(ctx, g, r, c, get)
}

// signatures adds the signatures of the attestation manifest.
func (s *Source) signatures(ctx context.Context, g bksession.Group, r *Resolved, c *Chain, get func(ocispec.Descriptor) ([]byte, error)) error {
	list, err := s.cfg.Registry.Referrers(ctx, g, r.Ref, c.Attestation)
	if errdefs.IsNotFound(err) || errors.Is(err, registry.ErrInvalid) {
		return nil // a registry without that service
	}
	if err != nil {
		return err
	}
	for _, d := range list {
		if !slices.Contains(bundleTypes, d.ArtifactType) || d.Digest.Validate() != nil {
			continue
		}
		if len(c.Signatures) == maxSignatures {
			return fmt.Errorf("image %s has more than %d signatures: %w", r.Name, maxSignatures, errdefs.ErrInvalidArgument)
		}
		b, err := get(ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size})
		if err != nil {
			return err
		}
		c.Signatures = append(c.Signatures, d.Digest)
		var m ocispec.Manifest
		if err := json.Unmarshal(b, &m); err != nil {
			return fmt.Errorf("image %s has an invalid signature: %w: %w", r.Name, err, errdefs.ErrInvalidArgument)
		}
		for _, l := range m.Layers[:min(len(m.Layers), maxSignatures)] {
			if _, err := get(l); err != nil {
				return err
			}
		}
	}
	return nil
}
