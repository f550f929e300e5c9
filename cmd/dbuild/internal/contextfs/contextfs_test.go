package contextfs

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// tree makes a directory with every kind of file.
func tree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "a", "b"), 0o750))
	must(os.WriteFile(filepath.Join(dir, "a", "f"), []byte("hello"), 0o640))
	must(os.WriteFile(filepath.Join(dir, "a-b"), nil, 0o755))
	must(os.Link(filepath.Join(dir, "a", "f"), filepath.Join(dir, "z")))
	must(os.Symlink("a/f", filepath.Join(dir, "link")))
	must(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	must(unix.Setxattr(filepath.Join(dir, "a", "f"), "user.test", []byte("v"), 0))
	return dir
}

func walk(t *testing.T, f fsutil.FS) []*types.Stat {
	t.Helper()
	var out []*types.Stat
	err := f.Walk(context.Background(), "/", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		out = append(out, fi.Sys().(*types.Stat))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// The daemon must be told exactly what other clients tell it, or their caches differ.
func TestSaysTheSameAsFsutil(t *testing.T) {
	dir := tree(t)
	theirs, err := fsutil.NewFS(dir)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(walk(t, theirs), walk(t, ours), cmpopts.IgnoreUnexported(types.Stat{})); d != "" {
		t.Fatal(d)
	}
}

func TestVersions(t *testing.T) {
	dir := tree(t)
	f, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	f = f.WithVersions("x.version", func(b []byte, v Version) []byte {
		if v.Size == 0 {
			return b
		}
		return fmt.Append(b, v.Size)
	})
	for _, st := range walk(t, f) {
		got, told := st.Xattrs["x.version"]
		want := fs.FileMode(st.Mode).IsRegular() && st.Path != "a-b"
		if told != want || (told && string(got) != "5") {
			t.Errorf("%s: %q", st.Path, got)
		}
		if st.Path == "a/f" && string(st.Xattrs["user.test"]) != "v" {
			t.Errorf("%s has lost its own attributes: %v", st.Path, st.Xattrs)
		}
	}
}

func TestRelativeRootAndTarget(t *testing.T) {
	t.Chdir(tree(t))
	f, err := New(".")
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	err = f.Walk(context.Background(), "a", func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	})
	if d := cmp.Diff([]string{"a", "a/b", "a/f"}, paths); err != nil || d != "" {
		t.Fatal(err, d)
	}
	rc, err := f.Open("a/f")
	if err != nil {
		t.Fatal(err)
	}
	rc.Close()
}

func TestWhatDisappearsIsLeftOut(t *testing.T) {
	dir := tree(t)
	f, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	err = f.Walk(context.Background(), "/", func(path string, d fs.DirEntry, _ error) error {
		if path == "link" {
			if err := os.Remove(filepath.Join(dir, "link")); err != nil {
				t.Fatal(err)
			}
		}
		_, err := d.Info()
		seen[path] = err == nil
		return err
	})
	if err != nil || seen["link"] || !seen["pipe"] || !seen["z"] {
		t.Fatalf("%v %v", err, seen)
	}
}

func TestNewRefusesFiles(t *testing.T) {
	dir := tree(t)
	for _, p := range []string{"a/f", "nothere"} {
		if _, err := New(filepath.Join(dir, p)); err == nil {
			t.Errorf("%s: no error", p)
		}
	}
}

func BenchmarkWalk(b *testing.B) {
	dir := b.TempDir()
	for i := range 2000 {
		if err := os.WriteFile(filepath.Join(dir, "f"+time.Duration(i).String()), nil, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	f, err := New(dir)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if err := f.Walk(context.Background(), "/", func(_ string, d fs.DirEntry, _ error) error { _, err := d.Info(); return err }); err != nil {
			b.Fatal(err)
		}
	}
}
