package local_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/exporter"
	xt "github.com/dbuild/dbuild/exporter/exportertest"
	"github.com/dbuild/dbuild/exporter/local"
	"github.com/dbuild/dbuild/internal/progress"
	rt "github.com/dbuild/dbuild/internal/registry/registrytest"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/moby/buildkit/session/filesync"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func export(t *testing.T, src exporter.Source, target filesync.FSSyncTarget, attrs map[string]string) error {
	t.Helper()
	m, g, id := rt.Session(t, filesync.NewFSSyncTarget(target))
	x, err := local.New(exporter.Client{Sessions: m, Index: 1}, attrs)
	if err != nil {
		return err
	}
	_, err = x.Export(xt.Within(t, 2*time.Minute), src, exporter.Access{Group: g, SessionIDs: []string{id}, Log: progress.NewLog()})
	return err
}

func store(t *testing.T) *snapshot.Store {
	s, _ := xt.Store(t, xt.Client(nil))
	return s
}

func TestTree(t *testing.T) {
	s := store(t)
	ref := xt.Ref(t, s, xt.Ref(t, s, nil, "bin/app", "v1", "gone", "x"), "bin/app", "v2", "link", "-> bin/app", "hard", "=> bin/app", "d/e/f", "deep")
	dest := t.TempDir()
	if err := export(t, exporter.Source{Ref: ref}, filesync.WithFSSyncDir(1, dest), map[string]string{"source-date-epoch": "1700000000"}); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"bin/app": "v2", "gone": "x", "link": "-> bin/app", "hard": "v2", "d/e/f": "deep"}
	if got := xt.Tree(t, dest); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	a, err := os.Stat(filepath.Join(dest, "bin/app"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.Stat(filepath.Join(dest, "hard"))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(a, b) {
		t.Error("hard link was copied")
	}
	if a.ModTime().Unix() != 1700000000 {
		t.Errorf("modified %v", a.ModTime())
	}
}

func TestNothing(t *testing.T) {
	if err := export(t, exporter.Source{}, filesync.WithFSSyncDir(1, t.TempDir()), nil); err != nil {
		t.Fatal(err)
	}
}

func TestSrc(t *testing.T) {
	s := store(t)
	ref := xt.Ref(t, s, nil, "out/app", "x", "other", "y", "out/link", "-> /other")
	dest := t.TempDir()
	if err := export(t, exporter.Source{Ref: ref}, filesync.WithFSSyncDir(1, dest), map[string]string{"src": "/out"}); err != nil {
		t.Fatal(err)
	}
	if got := xt.Tree(t, dest); !maps.Equal(got, map[string]string{"app": "x", "link": "-> /other"}) {
		t.Errorf("got %v", got)
	}
	for _, src := range []string{"/none", "other", "../../../etc"} {
		if err := export(t, exporter.Source{Ref: ref}, filesync.WithFSSyncDir(1, dest), map[string]string{"src": src}); err == nil || !strings.Contains(err.Error(), "no such directory") {
			t.Errorf("%s: %v", src, err)
		}
	}
}

func multi(t *testing.T, s *snapshot.Store, filesOf func(arch string) []string) exporter.Source {
	var src exporter.Source
	for _, arch := range []string{"arm64", "amd64"} {
		src.Platforms = append(src.Platforms, exporter.Platform{ID: "linux/" + arch, Platform: ocispec.Platform{OS: "linux", Architecture: arch}, Ref: xt.Ref(t, s, nil, filesOf(arch)...)})
	}
	return src
}

func TestPlatforms(t *testing.T) {
	s := store(t)
	same := multi(t, s, func(arch string) []string { return []string{"bin/app", arch, "z", "-> /bin/app"} })
	apart := multi(t, s, func(arch string) []string { return []string{"bin/app-" + arch, arch, "bin.d/" + arch, "x"} })
	single := exporter.Source{Ref: xt.Ref(t, s, nil, "a", "b")}
	tests := []struct {
		name  string
		src   exporter.Source
		attrs map[string]string
		want  map[string]string
		fails string
	}{
		{"split", same, nil, map[string]string{
			"linux_amd64/bin/app": "amd64", "linux_arm64/bin/app": "arm64", "linux_amd64/z": "-> /linux_amd64/bin/app", "linux_arm64/z": "-> /linux_arm64/bin/app",
		}, ""},
		{"together", apart, map[string]string{"platform-split": "false"}, map[string]string{"bin/app-amd64": "amd64", "bin/app-arm64": "arm64", "bin.d/amd64": "x", "bin.d/arm64": "x"}, ""},
		{"in each other's way", same, map[string]string{"platform-split": "false"}, nil, "cannot overwrite bin/app from linux/arm64 with that from linux/amd64"},
		{"one, split", single, map[string]string{"platform-split": "true"}, map[string]string{"linux_amd64/a": "b"}, ""},
		{"nonsense", single, map[string]string{"platform-split": "maybe"}, nil, "neither true nor false"},
		{"mode", single, map[string]string{"mode": "move"}, nil, "neither copy nor delete"},
		{"unknown", single, map[string]string{"typo": "1"}, nil, "unknown option typo"},
	}
	for _, mode := range []string{"copy", "delete"} {
		for _, tc := range tests {
			t.Run(mode+"/"+tc.name, func(t *testing.T) {
				dest := t.TempDir()
				attrs := map[string]string{"mode": mode}
				maps.Copy(attrs, tc.attrs)
				target := filesync.WithFSSyncDir(1, dest)
				if mode == "delete" {
					target = filesync.WithFSSyncDirDelete(1, dest)
					if err := os.WriteFile(filepath.Join(dest, "stale"), nil, 0o600); err != nil {
						t.Fatal(err)
					}
				}
				err := export(t, tc.src, target, attrs)
				if tc.fails != "" {
					if err == nil || !strings.Contains(err.Error(), tc.fails) {
						t.Fatalf("got %v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				if got := xt.Tree(t, dest); !maps.Equal(got, tc.want) {
					t.Errorf("got %v, want %v", got, tc.want)
				}
			})
		}
	}
}

// Many small files are more requests than windows hold: neither side may stop listening.
func TestManyFilesDoNotBlock(t *testing.T) {
	s := store(t)
	const dirs, files = 8, 1000
	ref := xt.Build(t, s, nil, func(root string) {
		for d := range dirs {
			dir := filepath.Join(root, fmt.Sprintf("directory-with-a-rather-long-name-%d", d))
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for f := range files {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file-with-a-rather-long-name-%d", f)), []byte(strings.Repeat("x", 1500)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
	dest := t.TempDir()
	if err := export(t, exporter.Source{Ref: ref}, filesync.WithFSSyncDir(1, dest), nil); err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := filepath.WalkDir(dest, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if n != dirs*files {
		t.Errorf("%d files", n)
	}
}

func TestClientThatCannotWrite(t *testing.T) {
	s := store(t)
	ref := xt.Ref(t, s, nil, "a", "b")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := export(t, exporter.Source{Ref: ref}, filesync.WithFSSyncDir(1, filepath.Join(file, "sub")), nil); err == nil || !strings.Contains(err.Error(), "not a directory") {
		t.Errorf("got %v", err)
	}
}
