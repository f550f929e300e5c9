package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// respManifest is where clients look for the descriptor of what was written.
const respManifest = "cache.manifest"

// Annotations of layers, as BuildKit's importer reads them.
const (
	noteCreated     = "buildkit/createdat"
	noteDescription = "buildkit/description"
)

// noteMount has the id of a cache mount. It is for people.
const noteMount = "dbuild.mount"

// A listed store has manifests, which name what belongs together.
type listed interface {
	blob(ctx context.Context, b snapshot.Blob, line *progress.Tracker) error
	manifest(ctx context.Context, d ocispec.Descriptor, data []byte) error
}

// finish writes the documents of a cache, with those of a cache that is there if it is to be
// appended to, and returns what the client is told.
func finish(ctx context.Context, to appendable, c contents, log *progress.Log) (map[string]string, error) {
	if c.opts.builds > 0 {
		return appendDocuments(ctx, to, c, log)
	}
	top, err := writeDocuments(ctx, to, c, log)
	if err != nil {
		return nil, err
	}
	return answer(top)
}

func answer(top ocispec.Descriptor) (map[string]string, error) {
	desc, err := json.Marshal(top)
	return map[string]string{respManifest: string(desc)}, err
}

// writeDocuments writes the config and the manifest or index that names everything.
func writeDocuments(ctx context.Context, to listed, c contents, log *progress.Log) (top ocispec.Descriptor, err error) {
	data, err := json.Marshal(c.config)
	if err != nil {
		return top, err
	}
	conf := ocispec.Descriptor{MediaType: configType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	line := log.Track("writing config " + conf.Digest.String())
	if err := to.blob(ctx, document(conf, data), line); err != nil {
		return top, fmt.Errorf("write the config of the cache: %w", err)
	}
	line.Done()

	var descs []ocispec.Descriptor
	seen := map[digest.Digest]bool{}
	for _, l := range c.Layers {
		if !seen[l.Blob] {
			seen[l.Blob] = true
			descs = append(descs, describe(c.blobs[l.Blob]))
		}
	}
	for _, m := range c.Mounts {
		if !seen[m.Blob] {
			seen[m.Blob] = true
			descs = append(descs, describeMount(m))
		}
	}
	what := "writing cache image manifest "
	top.MediaType = ocispec.MediaTypeImageManifest
	version := specs.Versioned{SchemaVersion: 2}
	if c.opts.manifest {
		data, err = json.Marshal(ocispec.Manifest{Versioned: version, MediaType: top.MediaType, Config: conf, Layers: descs})
	} else {
		what, top.MediaType = "writing cache manifest ", ocispec.MediaTypeImageIndex
		if !c.opts.oci {
			top.MediaType = images.MediaTypeDockerSchema2ManifestList
		}
		data, err = json.Marshal(ocispec.Index{Versioned: version, MediaType: top.MediaType, Manifests: append(descs, conf)})
	}
	if err != nil {
		return top, err
	}
	top.Digest, top.Size = digest.FromBytes(data), int64(len(data))
	line = log.Track(what + top.Digest.String())
	if err := to.manifest(ctx, top, data); err != nil {
		return top, fmt.Errorf("write the manifest of the cache: %w", err)
	}
	line.Done()
	return top, nil
}

// describe is how a layer stands in the manifest.
func describe(l snapshot.Blob) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size}
	d.Annotations = map[string]string{labels.LabelUncompressed: l.DiffID.String()}
	if !l.Created.IsZero() {
		d.Annotations[noteCreated] = l.Created.UTC().Format(time.RFC3339Nano)
	}
	if l.Description != "" {
		d.Annotations[noteDescription] = l.Description
	}
	return d
}

// describeMount is how a cache mount stands in the manifest, so that the registry keeps it.
// Without the digest that layers have there nobody takes it for one.
func describeMount(m mount) ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: m.About.MediaType, Digest: m.Blob, Size: m.About.Size,
		Annotations: map[string]string{noteMount: m.ID},
	}
}

// document is a small blob that is in memory.
func document(d ocispec.Descriptor, data []byte) snapshot.Blob {
	return snapshot.Blob{Descriptor: d, Local: true, Open: func(context.Context, bksession.Group) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(data)), nil
	}}
}
