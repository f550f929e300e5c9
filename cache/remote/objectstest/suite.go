package objectstest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Objects is what a store has to do; cache/remote says how.
type Objects interface {
	Open(ctx context.Context, d digest.Digest, offset int64) (io.ReadCloser, error)
	Has(ctx context.Context, d digest.Digest) (bool, error)
	Put(ctx context.Context, d ocispec.Descriptor, open func(context.Context) (io.ReadCloser, error)) error
	Configs(ctx context.Context, limit int64) ([][]byte, error)
	PutConfig(ctx context.Context, data []byte) error
}

// Random returns n bytes that nothing else has.
func Random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}).Read(b)
	return b
}

// Describe returns the descriptor of a blob.
func Describe(data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// Put writes a blob, and reports whether that was read.
func Put(t *testing.T, o Objects, data []byte) (read bool, err error) {
	t.Helper()
	err = o.Put(t.Context(), Describe(data), func(context.Context) (io.ReadCloser, error) {
		read = true
		return io.NopCloser(bytes.NewReader(data)), nil
	})
	return read, err
}

// Read reads a blob from an offset on.
func Read(t *testing.T, o Objects, d digest.Digest, offset int64) ([]byte, error) {
	t.Helper()
	rc, err := o.Open(t.Context(), d, offset)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	return io.ReadAll(rc)
}

// Blobs writes blobs of these sizes, once each, and reads them from anywhere.
func Blobs(t *testing.T, o Objects, sizes ...int) {
	t.Helper()
	missing := digest.FromString("missing")
	if ok, err := o.Has(t.Context(), missing); ok || err != nil {
		t.Errorf("what is not there: %v, %v", ok, err)
	}
	for _, size := range sizes {
		data := Random(size)
		d := Describe(data).Digest
		for _, first := range []bool{true, false} {
			if read, err := Put(t, o, data); err != nil || read != first {
				t.Errorf("%d bytes: written: %v, for the first time: %v: %v", size, read, first, err)
			}
		}
		if ok, err := o.Has(t.Context(), d); !ok || err != nil {
			t.Errorf("%d bytes: there: %v, %v", size, ok, err)
		}
		for _, at := range []int{0, size / 2} {
			if got, err := Read(t, o, d, int64(at)); err != nil || !bytes.Equal(got, data[at:]) {
				t.Errorf("%d bytes from %d on: %d come back, or others: %v", size, at, len(got), err)
			}
		}
	}
	if _, err := o.Open(t.Context(), missing, 0); !errdefs.IsNotFound(err) {
		t.Errorf("what is not there: %v", err)
	}
}

// Unreadable writes a blob whose reader fails shortly before its end.
func Unreadable(t *testing.T, o Objects, size int) {
	t.Helper()
	data := Random(size)
	err := o.Put(t.Context(), Describe(data), func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(io.MultiReader(bytes.NewReader(data[:size-10]), broken{})), nil
	})
	if err == nil {
		t.Errorf("%d bytes are there, though they could not be read", size)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("broken") }
