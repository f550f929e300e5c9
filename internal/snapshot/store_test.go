package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/registry"
	bksession "github.com/moby/buildkit/session"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashEnv) != "" {
		switch how := os.Getenv("SNAPSHOT_CRASH_HOW"); how {
		case "churn":
			churn()
		case "seeding", "seeded":
			seedAndDie(how)
		}
		crash()
	}
	goleak.VerifyTestMain(m)
}

// fakeRegistry serves blobs by digest, and counts.
type fakeRegistry struct {
	mu    sync.Mutex
	blobs map[string][]byte
	gets  int
	// spoil, if set, may change what is sent.
	spoil func(n int, b []byte) []byte
	err   error
}

func (f *fakeRegistry) fetch(ctx context.Context, g bksession.Group, from []registry.Location, d ocispec.Descriptor) (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gets++
	if f.err != nil {
		return nil, f.err
	}
	b, ok := f.blobs[d.Digest.String()]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, errdefs.ErrNotFound)
	}
	if f.spoil != nil {
		b = f.spoil(f.gets, slices.Clone(b))
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (f *fakeRegistry) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gets
}

type storeTest struct {
	*Store
	t   testing.TB
	cfg Config
	reg *fakeRegistry
}

// open opens a store that is checked and closed when the test ends.
func open(t testing.TB, mode string) *storeTest {
	t.Helper()
	reg := &fakeRegistry{blobs: map[string][]byte{}}
	st := &storeTest{t: t, reg: reg, cfg: Config{Root: t.TempDir(), Snapshotter: mode, Fetch: reg.fetch}}
	st.start()
	t.Cleanup(func() {
		if st.Store == nil {
			return
		}
		st.check()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

func (s *storeTest) start() {
	s.t.Helper()
	var err error
	if s.Store, err = Open(s.t.Context(), s.cfg); err != nil {
		s.t.Fatal(err)
	}
}

func (s *storeTest) reopen() {
	s.t.Helper()
	must(s.t, s.Close())
	s.Store = nil
	s.start()
}

func (s *storeTest) check() {
	s.t.Helper()
	if err := s.Check(context.Background()); err != nil {
		s.t.Errorf("check: %v", err)
	}
}

// layer commits a layer on parent, made by fn in the mounted root.
func (s *storeTest) layer(parent *Ref, fn func(root string)) *Ref {
	s.t.Helper()
	d, err := s.NewDraft(s.t.Context(), parent, Desc{Description: "a step"})
	must(s.t, err)
	root, unmount, err := d.Mount(s.t.Context(), Access{})
	must(s.t, err)
	fn(root)
	must(s.t, unmount())
	r, err := d.Commit(s.t.Context())
	must(s.t, err)
	s.t.Cleanup(func() { r.Release() })
	return r
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

// listing prints a View: one line a path.
func listing(t testing.TB, v *View) []string {
	t.Helper()
	var out []string
	var walk func(p string)
	walk = func(p string) {
		names, err := v.ReadDir(p)
		if errors.Is(err, fs.ErrNotExist) && p == "" {
			return
		}
		must(t, err)
		for _, n := range names {
			sub := join(p, n)
			st, err := v.Lstat(sub)
			must(t, err)
			line := fmt.Sprintf("%s %v %d:%d", sub, fs.FileMode(st.Mode), st.Uid, st.Gid)
			switch {
			case fs.FileMode(st.Mode).IsRegular():
				rc, err := v.Open(sub)
				must(t, err)
				b, err := io.ReadAll(rc)
				must(t, err)
				rc.Close()
				if len(b) > 64 {
					line += fmt.Sprintf(" %d bytes %s", len(b), dgstOf(string(b))[:15])
				} else {
					line += fmt.Sprintf(" %q", b)
				}
			case st.Linkname != "":
				line += " -> " + st.Linkname
			}
			for _, k := range slices.Sorted(func(yield func(string) bool) {
				for k := range st.Xattrs {
					if !yield(k) {
						return
					}
				}
			}) {
				line += fmt.Sprintf(" %s=%q", k, st.Xattrs[k])
			}
			out = append(out, line)
			if fs.FileMode(st.Mode).IsDir() {
				walk(sub)
			}
		}
	}
	walk("")
	return out
}

func (s *storeTest) listing(r *Ref) []string {
	s.t.Helper()
	v, err := r.View(s.t.Context(), Access{})
	must(s.t, err)
	return listing(s.t, v)
}

// mounted is listing of the same ref as the kernel sees it.
func (s *storeTest) mounted(r *Ref) []string {
	s.t.Helper()
	m, err := r.Mount(s.t.Context(), Access{})
	must(s.t, err)
	defer func() { must(s.t, m.Unmount()) }()
	return listing(s.t, newView("trusted.overlay.", m.Root))
}

func same(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n%s\nwant:\n%s", what, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func modes(t *testing.T, fn func(t *testing.T, mode string)) {
	for _, mode := range []string{"overlay", "native"} {
		t.Run(mode, func(t *testing.T) { fn(t, mode) })
	}
}

func tarNames(t testing.TB, r io.Reader) []string {
	t.Helper()
	var out []string
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		must(t, err)
		out = append(out, h.Name)
	}
}

// A layer has what changed: not the directories in which something was for a while.
func TestLayerHasOnlyChanges(t *testing.T) {
	s := open(t, "overlay")
	base := s.layer(nil, func(root string) {
		for _, d := range []string{"brief/below", "mode", "attr", "again/kept", "renewed", "stamped"} {
			must(t, os.MkdirAll(root+"/"+d, 0o755))
		}
		write(t, root+"/again/gone", "g")
		write(t, root+"/again/kept/gone", "g")
		write(t, root+"/moved", "m")
		write(t, root+"/rewritten", "r")
	})
	top := s.layer(base, func(root string) {
		write(t, root+"/brief/below/file", "x")
		must(t, os.Remove(root+"/brief/below/file"))
		must(t, os.Chmod(root+"/mode", 0o700))
		must(t, unix.Lsetxattr(root+"/attr", "user.mark", []byte("m"), 0))
		must(t, os.RemoveAll(root+"/again"))
		must(t, os.MkdirAll(root+"/again/kept", 0o755))
		must(t, os.Remove(root+"/renewed"))
		must(t, os.Mkdir(root+"/renewed", 0o755))
		must(t, os.Mkdir(root+"/new", 0o755))
		must(t, os.Chtimes(root+"/stamped", time.Unix(1234567890, 0), time.Unix(1234567890, 0)))
		must(t, os.Rename(root+"/moved", root+"/there"))
		must(t, os.Rename(root+"/there", root+"/moved"))
		st, err := os.Stat(root + "/rewritten")
		must(t, err)
		write(t, root+"/rewritten", "R")
		must(t, os.Chtimes(root+"/rewritten", st.ModTime(), st.ModTime()))
	})
	var got []string
	upper := top.layers[1].here()
	must(t, filepath.WalkDir(upper, func(path string, _ fs.DirEntry, err error) error {
		if path != upper {
			got = append(got, path[len(upper)+1:])
		}
		return err
	}))
	if want := []string{"again", "again/gone", "again/kept", "again/kept/gone", "attr", "mode", "new", "rewritten", "stamped"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	same(t, "mount", s.mounted(top), []string{
		"again drwxr-xr-x 0:0", "again/kept drwxr-xr-x 0:0", `attr drwxr-xr-x 0:0 user.mark="m"`, "brief drwxr-xr-x 0:0",
		"brief/below drwxr-xr-x 0:0", "mode drwx------ 0:0", `moved -rw-r--r-- 0:0 "m"`, "new drwxr-xr-x 0:0", "renewed drwxr-xr-x 0:0", `rewritten -rw-r--r-- 0:0 "R"`, "stamped drwxr-xr-x 0:0",
	})
	// What the layer removed is gone; what another layer has in its place is not.
	other := s.layer(nil, func(root string) {
		write(t, root+"/again/other", "o")
		write(t, root+"/again/gone", "g")
	})
	diff, err := s.Diff(t.Context(), Access{}, base, top)
	must(t, err)
	defer diff.Release()
	m := s.Merge(other, diff)
	defer m.Release()
	if got := s.listing(m); !slices.Contains(got, `again/other -rw-r--r-- 0:0 "o"`) || slices.Contains(got, `again/gone -rw-r--r-- 0:0 "g"`) {
		t.Errorf("merged: %q", got)
	}
}

func TestDraftBecomesRefViewBlobAndSurvivesRestart(t *testing.T) {
	modes(t, func(t *testing.T, mode string) {
		s := open(t, mode)
		base := s.layer(nil, func(root string) {
			write(t, root+"/etc/os", "linux")
			write(t, root+"/usr/bin/sh", "sh")
			write(t, root+"/gone/a", "a")
			write(t, root+"/reborn/old", "old")
			must(t, os.Symlink("usr/bin", root+"/bin"))
			must(t, os.Link(root+"/usr/bin/sh", root+"/usr/bin/ash"))
			must(t, os.Chmod(root+"/etc", 0o700|fs.ModeSticky))
			must(t, os.Chown(root+"/etc/os", 12, 34))
		})
		top := s.layer(base, func(root string) {
			write(t, root+"/etc/new", "new")
			must(t, os.RemoveAll(root+"/gone"))
			must(t, os.RemoveAll(root+"/reborn"))
			write(t, root+"/reborn/fresh", "fresh")
			write(t, root+"/usr/bin/sh", "sh2")
		})
		want := []string{
			`bin Lrwxrwxrwx 0:0 -> usr/bin`,
			`etc dtrwx------ 0:0`,
			`etc/new -rw-r--r-- 0:0 "new"`,
			`etc/os -rw-r--r-- 12:34 "linux"`,
			`reborn drwxr-xr-x 0:0`,
			`reborn/fresh -rw-r--r-- 0:0 "fresh"`,
			`usr drwxr-xr-x 0:0`,
			`usr/bin drwxr-xr-x 0:0`,
			`usr/bin/ash -rw-r--r-- 0:0 "sh"`,
			`usr/bin/sh -rw-r--r-- 0:0 "sh2"`,
		}
		if mode == "native" {
			want[8] = `usr/bin/ash -rw-r--r-- 0:0 "sh2"` // no copy-up breaks the hard link
		}
		same(t, "view", s.listing(top), want)
		same(t, "mount", s.mounted(top), want)

		blobs, err := top.Blobs(t.Context(), Access{}, Compression{})
		must(t, err)
		if len(blobs) != 2 || !blobs[1].Local || blobs[1].MediaType != ocispec.MediaTypeImageLayerGzip {
			t.Fatalf("blobs: %+v", blobs)
		}
		rc, err := blobs[1].Open(t.Context(), nil)
		must(t, err)
		z, err := decompressor(rc)
		must(t, err)
		names := tarNames(t, z)
		rc.Close()
		for _, n := range []string{".wh.gone", "reborn/", "etc/new", "usr/bin/sh"} {
			if !slices.Contains(names, n) {
				t.Errorf("no %s in the tar: %q", n, names)
			}
		}

		ids := top.LayerIDs()
		must(t, s.Flush(t.Context()))
		s.check()
		s.reopen()
		again, err := s.Load(t.Context(), ids)
		must(t, err)
		defer again.Release()
		if again.ID() != top.ID() {
			t.Errorf("id %s after restart, was %s", again.ID(), top.ID())
		}
		same(t, "view after restart", s.listing(again), want)
		blobs2, err := again.Blobs(t.Context(), Access{}, Compression{})
		must(t, err)
		if blobs2[1].Digest != blobs[1].Digest || blobs2[1].DiffID != blobs[1].DiffID {
			t.Errorf("another blob after restart: %+v, was %+v", blobs2[1], blobs[1])
		}
	})
}

func TestOneDaemonPerRoot(t *testing.T) {
	s := open(t, "")
	_, err := Open(t.Context(), s.cfg)
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("second open: %v", err)
	}
}

func TestNewerSchemaIsRefused(t *testing.T) {
	s := open(t, "")
	must(t, s.do(t.Context(), false, func(tx *bolt.Tx) error {
		return tx.Bucket(bucketRoot).Put(keySchema, []byte("99"))
	}))
	must(t, s.Close())
	s.Store = nil
	_, err := Open(t.Context(), s.cfg)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "newer") {
		t.Fatalf("open: %v", err)
	}
}
