package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/llb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// offline runs a command that needs no daemon.
func offline(t *testing.T, stdin []byte, args ...string) (int, string, string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{stdin: bytes.NewReader(stdin), stdout: &stdout, stderr: &stderr, lookup: env(map[string]string{"DBUILD_HOST": "unix:///no/such/socket"})}
	return a.execute(t.Context(), args), stdout.String(), stderr.String()
}

func TestDumpLLB(t *testing.T) {
	out := llb.Image("docker.io/library/alpine:latest", llb.ImageOptions{}, llb.Meta{})
	def, err := llb.Marshal(t.Context(), out, ocispec.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	b, err := def.MarshalVT()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ args, want string }{
		{"debug dump-llb", "docker-image://docker.io/library/alpine:latest"},
		{"debug dump-llb -", "result %1"},
		{"debug dump-llb --dot", "digraph"},
		{"debug dump-llb --format json", "\"docker-image://docker.io/library/alpine:latest\""},
	} {
		code, stdout, stderr := offline(t, b, strings.Fields(tc.args)...)
		if code != 0 || !strings.Contains(stdout, tc.want) {
			t.Errorf("%s: exit %d, %q, %q", tc.args, code, stdout, stderr)
		}
	}
	for _, bad := range [][]byte{nil, []byte("no definition at all")} {
		if code, _, stderr := offline(t, bad, "debug", "dump-llb"); code != exitOther || !strings.Contains(stderr, "not a marshalled definition") {
			t.Errorf("%q: exit %d, %q", bad, code, stderr)
		}
	}
	if code, _, stderr := offline(t, nil, "debug", "dump-llb", "/no/such/file"); code != exitOther || !strings.Contains(stderr, "/no/such/file") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

func TestDumpMetadata(t *testing.T) {
	root := t.TempDir()
	db, err := bolt.Open(filepath.Join(root, "x.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() // it stays open, as in a running daemon
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("outer"))
		if err != nil {
			return err
		}
		if err := b.Put([]byte("key"), []byte{1, 2}); err != nil {
			return err
		}
		inner, err := b.CreateBucket([]byte("inner"))
		if err != nil {
			return err
		}
		return inner.Put([]byte("k"), []byte("text"))
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "x.db\n  \"outer\"\n    \"inner\"\n      \"k\" = \"text\"\n    \"key\" = 0102\n"
	code, stdout, stderr := offline(t, nil, "debug", "dump-metadata", "--root", root)
	if code != 0 || stdout != want {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
	for _, dir := range []string{t.TempDir(), "/no/such/dir"} {
		if code, _, stderr := offline(t, nil, "debug", "dump-metadata", "--root", dir); code != exitOther || stderr == "" {
			t.Errorf("%s: exit %d, %q", dir, code, stderr)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "y.db"), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := offline(t, nil, "debug", "dump-metadata", "--root", root); code != exitOther || !strings.Contains(stderr, "y.db") {
		t.Errorf("garbage: exit %d, %q", code, stderr)
	}
}
