package imagediff

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/moby/go-archive/compression"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxDocument bounds indexes, manifests and configurations, in bytes.
const maxDocument = 32 << 20

// attestationKey is the annotation of manifests that are about another.
const attestationKey = "vnd.docker.reference.type"

// A layout is a directory in OCI layout.
type layout string

// an image is a manifest of a layout.
type image struct {
	in       layout
	platform string
	desc     ocispec.Descriptor
	manifest ocispec.Manifest
	config   map[string]any
	typed    ocispec.Image // the same configuration
}

func (l layout) path(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", err
	}
	return filepath.Join(string(l), ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), nil
}

// document reads a JSON document.
func (l layout) document(d digest.Digest, into any) error {
	path, err := l.path(d)
	if err != nil {
		return err
	}
	return readJSON(path, into)
}

func readJSON(path string, into any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := json.NewDecoder(io.LimitReader(f, maxDocument)).Decode(into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// images returns the images of a layout.
func (l layout) images() ([]*image, error) {
	var index ocispec.Index
	if err := readJSON(filepath.Join(string(l), ocispec.ImageIndexFile), &index); err != nil {
		return nil, err
	}
	return l.below(index.Manifests, 0)
}

func (l layout) below(manifests []ocispec.Descriptor, depth int) ([]*image, error) {
	var out []*image
	for _, d := range manifests {
		switch {
		case d.Annotations[attestationKey] != "":
			continue
		case images.IsIndexType(d.MediaType) && depth < 2:
			var index ocispec.Index
			if err := l.document(d.Digest, &index); err != nil {
				return nil, err
			}
			more, err := l.below(index.Manifests, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
			continue
		}
		i := &image{in: l, desc: d}
		if err := l.document(d.Digest, &i.manifest); err != nil {
			return nil, err
		}
		for _, into := range []any{&i.config, &i.typed} {
			if err := l.document(i.manifest.Config.Digest, into); err != nil {
				return nil, err
			}
		}
		i.platform = platforms.FormatAll(platforms.Normalize(i.typed.Platform))
		out = append(out, i)
	}
	return out, nil
}

// layer opens a layer, uncompressed.
func (i *image) layer(n int) (io.ReadCloser, error) {
	path, err := i.in.path(i.manifest.Layers[n].Digest)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	r, err := compression.DecompressStream(f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &stream{r, f}, nil
}

// A stream is what is read of a file.
type stream struct {
	io.ReadCloser
	file *os.File
}

func (s *stream) Close() error {
	err := s.ReadCloser.Close()
	if cerr := s.file.Close(); err == nil {
		err = cerr
	}
	return err
}

// createdBy is which instruction made a layer, if the history says so.
func (i *image) createdBy(layer int) string {
	for _, h := range i.typed.History {
		if h.EmptyLayer {
			continue
		}
		if layer == 0 {
			return h.CreatedBy
		}
		layer--
	}
	return ""
}

// Compare compares the images of two directories in OCI layout.
func Compare(ctx context.Context, first, second string) (*Report, error) {
	a, err := layout(first).images()
	if err != nil {
		return nil, err
	}
	b, err := layout(second).images()
	if err != nil {
		return nil, err
	}
	r := &Report{Images: []Image{}}
	for _, left := range a {
		n := slices.IndexFunc(b, func(i *image) bool { return i.platform == left.platform })
		if n < 0 {
			r.Images = append(r.Images, Image{Platform: left.platform, Digests: [2]string{left.desc.Digest.String()}})
			continue
		}
		i, err := compareImages(ctx, left, b[n])
		if err != nil {
			return nil, err
		}
		r.Images = append(r.Images, *i)
		b = slices.Delete(b, n, n+1)
	}
	for _, right := range b {
		r.Images = append(r.Images, Image{Platform: right.platform, Digests: [2]string{1: right.desc.Digest.String()}})
	}
	r.Equal = !slices.ContainsFunc(r.Images, func(i Image) bool { return i.Digests[0] != i.Digests[1] })
	return r, nil
}

func compareImages(ctx context.Context, a, b *image) (*Image, error) {
	out := &Image{Platform: a.platform, Digests: [2]string{a.desc.Digest.String(), b.desc.Digest.String()}}
	if a.desc.Digest == b.desc.Digest {
		return out, nil
	}
	for n := range max(len(a.manifest.Layers), len(b.manifest.Layers)) {
		l, err := compareLayer(ctx, a, b, n)
		if err != nil {
			return nil, fmt.Errorf("layer %d of %s: %w", n, a.platform, err)
		}
		if l.Digests[0] != l.Digests[1] {
			out.Layers = append(out.Layers, *l)
		}
	}
	// What layers differ in has been said.
	delete(a.config, "rootfs")
	delete(b.config, "rootfs")
	out.Config = compareValues(nil, "", a.config, b.config)
	out.Config = compareValues(out.Config, "annotations", values(a.manifest.Annotations), values(b.manifest.Annotations))
	return out, nil
}

func values(m map[string]string) map[string]any {
	out := map[string]any{}
	for k, v := range m {
		out[k] = v
	}
	return out
}

func compareLayer(ctx context.Context, a, b *image, n int) (*Layer, error) {
	l := &Layer{Index: n}
	var open []io.Reader
	for side, i := range []*image{a, b} {
		if n >= len(i.manifest.Layers) {
			continue
		}
		l.Digests[side] = i.manifest.Layers[n].Digest.String()
		if l.CreatedBy == "" {
			l.CreatedBy = i.createdBy(n)
		}
		r, err := i.layer(n)
		if err != nil {
			return nil, err
		}
		defer r.Close()
		open = append(open, r)
	}
	if len(open) < 2 || l.Digests[0] == l.Digests[1] {
		return l, nil
	}
	var err error
	l.Paths, err = compareLayers(ctx, open[0], open[1])
	return l, err
}
