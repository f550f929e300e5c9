package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/distribution/reference"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PushReferrer stores a manifest that has a subject in the repository of t. A registry that
// keeps no list of what refers to a manifest gets that list as an index under a tag which is
// made of the subject's digest, as the OCI distribution specification has it
// ("Referrers Tag Schema"). desc is how the list names the manifest.
func (c *Client) PushReferrer(ctx context.Context, g bksession.Group, t Target, desc ocispec.Descriptor, b []byte, subject digest.Digest) error {
	named, err := ParseRef(t.Ref)
	if err != nil {
		return err
	}
	at := t
	at.Ref = named.Name() + "@" + desc.Digest.String()
	header, err := c.putManifest(ctx, g, at, desc, b)
	if err != nil || header.Get("OCI-Subject") != "" {
		return err
	}
	tag, err := reference.WithTag(reference.TrimNamed(named), subject.Algorithm().String()+"-"+subject.Encoded())
	if err != nil {
		return err
	}
	at.Ref = tag.String()
	index, err := c.referrersTag(ctx, g, at, tag.Tag())
	if err != nil {
		return err
	}
	if slices.ContainsFunc(index.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }) {
		return nil
	}
	index.Manifests = append(index.Manifests, desc)
	if b, err = json.Marshal(index); err != nil {
		return err
	}
	return c.PushManifestTo(ctx, g, at, ocispec.Descriptor{MediaType: index.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}, b)
}

// referrersTag reads the list under a tag; there may be none yet.
func (c *Client) referrersTag(ctx context.Context, g bksession.Group, t Target, tag string) (*ocispec.Index, error) {
	index := &ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	loc, err := LocationOf(t.Ref)
	if err != nil {
		return nil, err
	}
	h, err := c.host(g, loc.Host(), t.Insecure)
	if err != nil {
		return nil, err
	}
	resp, err := c.send(docker.WithScope(quiet(ctx), scope(loc, "pull,push")), h, request{
		method: http.MethodGet, path: repoPath(h, loc, "manifests", tag),
		// More than is wanted: some registries say that what is not accepted is not there.
		header: http.Header{"Accept": {ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, images.MediaTypeDockerSchema2Manifest, images.MediaTypeDockerSchema2ManifestList}},
	})
	if err != nil {
		return nil, explain("push", t.Ref, loc.Host(), err)
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return index, nil
	case resp.StatusCode >= 300:
		return nil, statusOf("push", t.Ref, loc.Host(), resp)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, MaxManifest+1))
	if err == nil && len(b) > MaxManifest {
		err = fmt.Errorf("the list of what refers to the image has more than %d bytes", MaxManifest)
	}
	if err == nil {
		err = json.Unmarshal(b, index)
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && kind != ocispec.MediaTypeImageIndex {
		err = errors.New("what is there under the tag for the list of referrers is something else")
	}
	if err != nil {
		return nil, explain("push", t.Ref, loc.Host(), err)
	}
	return index, nil
}
