// Package exportertest gives tests of exporters and sources a real store, refs with
// files in them, and clients that take what is exported.
package exportertest

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/snapshot"
	bksession "github.com/moby/buildkit/session"
)

// Client returns a registry client that does not wait long.
func Client(m *bksession.Manager) *registry.Client {
	return registry.New(registry.Config{Backoff: time.Millisecond}, m)
}

// Store opens a store that fetches with c, for the length of the test, and returns its
// directory, too.
func Store(t testing.TB, c *registry.Client) (*snapshot.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := snapshot.Open(t.Context(), snapshot.Config{Root: dir, Fetch: c.Open})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s, dir
}

// Ref makes a layer of files on parent, which may be nil. Names and contents are given
// in turn; "-> x" makes a symlink, "=> x" a hard link.
func Ref(t testing.TB, s *snapshot.Store, parent *snapshot.Ref, namesAndContents ...string) *snapshot.Ref {
	t.Helper()
	return Build(t, s, parent, func(root string) {
		for i := 0; i < len(namesAndContents); i += 2 {
			name, content := filepath.Join(root, namesAndContents[i]), namesAndContents[i+1]
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			var err error
			if to, ok := strings.CutPrefix(content, "-> "); ok {
				err = os.Symlink(to, name)
			} else if to, ok := strings.CutPrefix(content, "=> "); ok {
				err = os.Link(filepath.Join(root, to), name)
			} else {
				err = os.WriteFile(name, []byte(content), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Build makes a layer of what write puts into a directory.
func Build(t testing.TB, s *snapshot.Store, parent *snapshot.Ref, write func(root string)) *snapshot.Ref {
	t.Helper()
	d, err := s.NewDraft(t.Context(), parent, snapshot.Desc{Description: "test layer"})
	if err != nil {
		t.Fatal(err)
	}
	root, unmount, err := d.Mount(t.Context(), snapshot.Access{})
	if err != nil {
		t.Fatal(err)
	}
	write(root)
	if err := unmount(); err != nil {
		t.Fatal(err)
	}
	r, err := d.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Release)
	return r
}

// Read returns the files of a ref, as Tree does.
func Read(t testing.TB, r *snapshot.Ref, a snapshot.Access) map[string]string {
	t.Helper()
	m, err := r.Mount(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Unmount(); err != nil {
			t.Error(err)
		}
	}()
	return Tree(t, m.Root)
}

// Tree returns what is in a directory: contents of files by path, "-> x" for symlinks,
// and nothing for directories.
func Tree(t testing.TB, root string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		if d.Type() == fs.ModeSymlink {
			to, err := os.Readlink(p)
			out[rel] = "-> " + to
			return err
		}
		b, err := os.ReadFile(p)
		out[rel] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Size returns how many bytes of regular files are below a directory.
func Size(t testing.TB, root string) int64 {
	t.Helper()
	var n int64
	err := filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			n += fi.Size()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A File takes a stream that is exported to a client.
type File struct {
	mu sync.Mutex // guards all
	b  bytes.Buffer
	md map[string]string
	no bool
}

// Refuse makes the client say that it has the file already.
func (f *File) Refuse() { f.mu.Lock(); f.no = true; f.mu.Unlock() }

// Open is a filesync.FileOutputFunc.
func (f *File) Open(md map[string]string) (io.WriteCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.md = md
	if f.no {
		return nil, nil
	}
	return f, nil
}

// Write is for the client.
func (f *File) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.b.Write(p)
}

// Close is for the client.
func (f *File) Close() error { return nil }

// Bytes returns what arrived.
func (f *File) Bytes() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	return bytes.Clone(f.b.Bytes())
}

// Metadata returns what the client was told with it.
func (f *File) Metadata() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.md
}

// Within returns a context that ends the test's operation if it hangs.
func Within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
