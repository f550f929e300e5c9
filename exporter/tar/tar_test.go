package tar_test

import (
	"archive/tar"
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/exporter"
	xt "github.com/dbuild/dbuild/exporter/exportertest"
	exporttar "github.com/dbuild/dbuild/exporter/tar"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/moby/buildkit/session/filesync"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

func export(t *testing.T, src exporter.Source, f *xt.File, attrs map[string]string) error {
	t.Helper()
	m, g, id := rt.Session(t, filesync.NewFSSyncTarget(filesync.WithFSSync(0, f.Open)))
	x, err := exporttar.New(exporter.Client{Sessions: m}, attrs)
	if err != nil {
		return err
	}
	_, err = x.Export(xt.Within(t, time.Minute), src, exporter.Access{Group: g, SessionIDs: []string{id}})
	return err
}

func read(t *testing.T, b []byte) (map[string]string, []*tar.Header) {
	t.Helper()
	files := map[string]string{}
	var heads []*tar.Header
	r := tar.NewReader(bytes.NewReader(b))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return files, heads
		}
		if err != nil {
			t.Fatal(err)
		}
		heads = append(heads, h)
		switch h.Typeflag {
		case tar.TypeReg:
			c, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			files[h.Name] = string(c)
		case tar.TypeSymlink:
			files[h.Name] = "-> " + h.Linkname
		case tar.TypeLink:
			files[h.Name] = "=> " + h.Linkname
		}
	}
}

func TestTar(t *testing.T) {
	s, _ := xt.Store(t, xt.Client(nil))
	big := strings.Repeat("0123456789", 500_000)
	ref := xt.Ref(t, s, nil, "a/app", big, "link", "-> a/app", "zhard", "=> a/app")
	var f xt.File
	if err := export(t, exporter.Source{Ref: ref}, &f, map[string]string{"source-date-epoch": "1700000000"}); err != nil {
		t.Fatal(err)
	}
	files, heads := read(t, f.Bytes())
	if want := map[string]string{"a/app": big, "link": "-> a/app", "zhard": "=> a/app"}; !maps.Equal(files, want) {
		t.Errorf("%d files of %d bytes", len(files), len(files["a/app"]))
	}
	for _, h := range heads {
		if h.ModTime.Unix() != 1700000000 {
			t.Errorf("%s modified %v", h.Name, h.ModTime)
		}
	}
	var again xt.File
	if err := export(t, exporter.Source{Ref: ref}, &again, map[string]string{"source-date-epoch": "1700000000"}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.Bytes(), again.Bytes()) {
		t.Error("two exports differ")
	}
}

func TestPlatforms(t *testing.T) {
	s, _ := xt.Store(t, xt.Client(nil))
	var src exporter.Source
	for _, arch := range []string{"arm64", "amd64"} {
		src.Platforms = append(src.Platforms, exporter.Platform{ID: "linux/" + arch, Platform: ocispec.Platform{OS: "linux", Architecture: arch}, Ref: xt.Ref(t, s, nil, "app", arch)})
	}
	var f xt.File
	if err := export(t, src, &f, nil); err != nil {
		t.Fatal(err)
	}
	if files, _ := read(t, f.Bytes()); !maps.Equal(files, map[string]string{"linux_amd64/app": "amd64", "linux_arm64/app": "arm64"}) {
		t.Errorf("%v", files)
	}
	if err := export(t, src, &f, map[string]string{"platform-split": "false"}); err == nil || !strings.Contains(err.Error(), "cannot overwrite app from linux") {
		t.Errorf("got %v", err)
	}
}

// TestRemovedNamesAlone exports a layer that removes names from a directory that no other layer
// has, as the difference of two results may be.
func TestRemovedNamesAlone(t *testing.T) {
	s, _ := xt.Store(t, xt.Client(nil))
	d, err := s.NewDraft(t.Context(), nil, snapshot.Desc{})
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(d.Upper(), "dir")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b", "new", "zz"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"gone", "z"} {
		if err := unix.Mknod(filepath.Join(dir, name), unix.S_IFCHR, 0); err != nil {
			t.Fatal(err)
		}
	}
	ref, err := d.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ref.Release)
	for _, attrs := range []map[string]string{nil, {"source-date-epoch": "1700000000"}} {
		var f xt.File
		if err := export(t, exporter.Source{Ref: ref}, &f, attrs); err != nil {
			t.Fatal(err)
		}
		files, _ := read(t, f.Bytes())
		if want := map[string]string{"dir/b": "b", "dir/new": "new", "dir/zz": "zz"}; !maps.Equal(files, want) {
			t.Errorf("got %v, want %v", files, want)
		}
	}
}
