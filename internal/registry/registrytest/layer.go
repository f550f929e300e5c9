package registrytest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"testing"

	digest "github.com/opencontainers/go-digest"
)

// A Layer is a gzipped tar.
type Layer struct {
	Blob   []byte
	DiffID digest.Digest
}

// Files makes a layer of regular files, given as name and content in turn.
func Files(t testing.TB, namesAndContents ...string) Layer {
	t.Helper()
	var raw bytes.Buffer
	tw := tar.NewWriter(&raw)
	for i := 0; i < len(namesAndContents); i += 2 {
		name, content := namesAndContents[i], namesAndContents[i+1]
		if err := tw.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	zw.Write(raw.Bytes())
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	return Layer{Blob: z.Bytes(), DiffID: digest.FromBytes(raw.Bytes())}
}
