package snapshot

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"runtime"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Compression types.
const (
	gzipType = "gzip"
	zstdType = "zstd"
	noneType = "uncompressed"
)

// gzipBlock is what one goroutine compresses at a time. It shapes the output: changing it
// changes the digest of every layer.
const gzipBlock = 1 << 20

const (
	gzipLevel = 6
	// zstd at its fastest beats gzip -6 in size at twice the speed of zstd's default.
	zstdLevel = 1
)

func compressionType(t string) (string, error) {
	switch t {
	case "", gzipType:
		return gzipType, nil
	case zstdType, noneType:
		return t, nil
	}
	return "", fmt.Errorf("unknown compression %q (gzip, zstd, uncompressed): %w", t, errdefs.ErrInvalidArgument)
}

// typeOf is the compression a media type stands for, or "" if we do not know it.
func typeOf(mediaType string) string {
	switch {
	case strings.HasSuffix(mediaType, ".gzip"), strings.HasSuffix(mediaType, "+gzip"):
		return gzipType
	case strings.HasSuffix(mediaType, ".zstd"), strings.HasSuffix(mediaType, "+zstd"):
		return zstdType
	case strings.HasSuffix(mediaType, ".tar"):
		return noneType
	}
	return ""
}

var (
	ociTypes = map[string]string{
		gzipType: ocispec.MediaTypeImageLayerGzip,
		zstdType: ocispec.MediaTypeImageLayerZstd,
		noneType: ocispec.MediaTypeImageLayer,
	}
	dockerTypes = map[string]string{
		gzipType: images.MediaTypeDockerSchema2LayerGzip,
		zstdType: images.MediaTypeDockerSchema2LayerZstd,
		noneType: images.MediaTypeDockerSchema2Layer,
	}
)

// mediaType says mt in the dialect that is asked for. Types we do not know stay.
func mediaType(mt string, docker bool) string {
	t := typeOf(mt)
	if t == "" || images.IsNonDistributable(mt) {
		return mt
	}
	if docker {
		return dockerTypes[t]
	}
	return ociTypes[t]
}

// compressor compresses to w. The same input, type and level give the same output on any
// number of CPUs.
func compressor(w io.Writer, typ string, level *int) (io.WriteCloser, error) {
	switch typ {
	case gzipType:
		l := gzipLevel
		if level != nil {
			l = *level
		}
		z, err := pgzip.NewWriterLevel(w, l)
		if err != nil {
			return nil, fmt.Errorf("gzip level %d: %w", l, errdefs.ErrInvalidArgument)
		}
		if err := z.SetConcurrency(gzipBlock, runtime.GOMAXPROCS(0)+1); err != nil {
			return nil, err
		}
		return z, nil
	case zstdType:
		l := zstdLevel
		if level != nil {
			l = *level
		}
		speed := zstd.EncoderLevelFromZstd(l)
		if speed == zstd.SpeedFastest {
			return newChunked(w)
		}
		// Who asks for more wants it small: one stream, which looks back further.
		return zstd.NewWriter(w, zstd.WithEncoderLevel(speed), zstd.WithEncoderConcurrency(2))
	}
	return nopCloser{w}, nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// maxWindow bounds the memory a zstd stream may ask for (zstd --long=27).
const maxWindow = 128 << 20

// decompressor reads r by what it is, whatever its media type says.
func decompressor(r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	head, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return gzip.NewReader(b)
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) >= 4 && head[0]&0xf0 == 0x50 && head[1] == 0x2a && head[2] == 0x4d && head[3] == 0x18:
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return nil, fmt.Errorf("bzip2 layers are not supported: %w", errdefs.ErrNotImplemented)
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, fmt.Errorf("xz layers are not supported: %w", errdefs.ErrNotImplemented)
	}
	return io.NopCloser(b), nil
}
