package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/internal/snapshot"
	units "github.com/docker/go-units"
	bksession "github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A provider is an assembled image as containerd's archive writer reads it. Layers are
// streams: they can be read from the start to the end, once for each ReaderAt.
type provider struct {
	docs   map[digest.Digest][]byte
	layers map[digest.Digest]snapshot.Blob
	group  bksession.Group
}

var _ content.InfoReaderProvider = (*provider)(nil)

func newProvider(img *exporter.Image, g bksession.Group) *provider {
	p := &provider{docs: img.Documents(), layers: map[digest.Digest]snapshot.Blob{}, group: g}
	for _, l := range img.Layers() {
		p.layers[l.Digest] = l
	}
	return p
}

// Info has no labels, so nothing is added to descriptors.
func (p *provider) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	if b, ok := p.docs[d]; ok {
		return content.Info{Digest: d, Size: int64(len(b))}, nil
	}
	if l, ok := p.layers[d]; ok {
		return content.Info{Digest: d, Size: l.Size}, nil
	}
	return content.Info{}, fmt.Errorf("%s is not part of the image: %w", d, errdefs.ErrNotFound)
}

func (p *provider) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if b, ok := p.docs[desc.Digest]; ok {
		return docReader{bytes.NewReader(b)}, nil
	}
	l, ok := p.layers[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("%s is not part of the image: %w", desc.Digest, errdefs.ErrNotFound)
	}
	rc, err := l.Open(ctx, p.group)
	if err != nil {
		return nil, err
	}
	return &streamReader{rc: rc, size: l.Size}, nil
}

type docReader struct{ *bytes.Reader }

func (docReader) Close() error { return nil }

// A streamReader is a stream that looks like a file to those who read it in order.
type streamReader struct {
	rc   io.ReadCloser
	at   int64
	size int64
}

func (s *streamReader) ReadAt(p []byte, off int64) (int, error) {
	if off != s.at {
		return 0, errors.New("a layer that is elsewhere can be read in order only")
	}
	if off == s.size {
		return 0, io.EOF
	}
	n, err := io.ReadFull(s.rc, p[:min(int64(len(p)), s.size-off)])
	s.at += int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (s *streamReader) Size() int64  { return s.size }
func (s *streamReader) Close() error { return s.rc.Close() }

// exportStore is the content store that clients offer for tar=false.
const exportStore = "export"

// writeContent is the method by which blobs are written to it.
const writeContent = "/containerd.services.content.v1.Content/Write"

// sendContent writes the image to the client's content store, blobs it has excepted,
// documents after what they name. The client writes index.json itself.
func (e *Exporter) sendContent(ctx context.Context, a exporter.Access, img *exporter.Image) error {
	caller, err := e.to.Caller(ctx, a, writeContent)
	if err != nil {
		return err
	}
	store := sessioncontent.NewCallerStore(caller, exportStore)
	from := newProvider(img, a.Group)
	layers := img.Layers()
	var order []ocispec.Descriptor
	size := int64(0)
	for _, l := range layers {
		if _, err := store.Info(ctx, l.Digest); err != nil { // or it cannot be told; Writer will
			order = append(order, l.Descriptor)
			size += l.Size
		}
	}
	line := a.Log.Track(fmt.Sprintf("sending layers to the client: %d of %d missing, %s", len(order), len(layers), units.HumanSize(float64(size))))
	for _, m := range img.All() {
		order = append(order, m.Config, m.Desc)
	}
	if img.Index != nil {
		order = append(order, img.Top)
	}
	for _, d := range order {
		err := exporter.WriteBlob(ctx, store, d, func(ctx context.Context) (io.ReadCloser, error) {
			ra, err := from.ReaderAt(ctx, d)
			if err != nil {
				return nil, err
			}
			return struct {
				io.Reader
				io.Closer
			}{io.NewSectionReader(ra, 0, d.Size), ra}, nil
		})
		if err != nil {
			return err
		}
	}
	line.Done()
	return nil
}
