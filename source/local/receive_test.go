package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/tonistiigi/fsutil"
)

func TestTransfer(t *testing.T) {
	type step struct {
		name   string
		change func(m *mirror)
		reqs   int64 // files a client of ours is asked for
		moved  bool  // root changes
	}
	pin := func(m *mirror, path string, change func()) { // keeps size and mtime
		fi, err := os.Stat(m.path(path))
		must(m.t, err)
		change()
		must(m.t, os.Chtimes(m.path(path), fi.ModTime(), fi.ModTime()))
	}
	steps := []step{
		{"unchanged", func(*mirror) {}, 0, false},
		{"touch", func(m *mirror) { must(m.t, os.Chtimes(m.path("a.txt"), time.Now(), time.Unix(12345, 678))) }, 1, false},
		{"same size and time", func(m *mirror) {
			pin(m, "a.txt", func() { m.write("a.txt", "ALPHA") })
		}, 1, true},
		{"same size and time, big, last byte", func(m *mirror) {
			pin(m, "big", func() { m.write("big", big(3<<20, 1)[:3<<20-1]+"!") })
		}, 1, true},
		{"big rewritten with the same bytes", func(m *mirror) {
			pin(m, "big", func() { m.write("big", big(3<<20, 1)[:3<<20-1]+"!") })
		}, 1, false},
		{"big shorter", func(m *mirror) { m.write("big", big(2<<20, 1)) }, 1, true},
		{"chmod", func(m *mirror) { must(m.t, os.Chmod(m.path("a/b/empty"), 0o600)) }, 1, true},
		{"chmod dir", func(m *mirror) { must(m.t, os.Chmod(m.path("a"), 0o711)) }, 0, true},
		{"new file", func(m *mirror) { m.write("a/b/d.txt", "delta") }, 1, true},
		{"new first and last", func(m *mirror) { m.write("!first", "1"); m.write("~last", "2") }, 2, true},
		{"delete file", func(m *mirror) { must(m.t, os.Remove(m.path("a/b/d.txt"))) }, 0, true},
		{"delete dir", func(m *mirror) { must(m.t, os.RemoveAll(m.path("emptydir"))) }, 0, true},
		{"rename", func(m *mirror) { must(m.t, os.Rename(m.path("medium"), m.path("renamed"))) }, 1, true},
		{"rename dir", func(m *mirror) { must(m.t, os.Rename(m.path("a-b"), m.path("ab"))) }, 1, true},
		{"swap two files", func(m *mirror) {
			must(m.t, os.Rename(m.path("renamed"), m.path("t")))
			must(m.t, os.Rename(m.path("exact"), m.path("renamed")))
			must(m.t, os.Rename(m.path("t"), m.path("exact")))
		}, 2, true},
		{"retarget link", func(m *mirror) {
			must(m.t, os.Remove(m.path("abs")))
			must(m.t, os.Symlink("/etc/group", m.path("abs")))
		}, 0, true},
		{"change a hard linked file", func(m *mirror) { m.write("z-hard", "GAMMA") }, 1, true},
		{"break hard link", func(m *mirror) {
			must(m.t, os.Remove(m.path("z-hard")))
			m.write("z-hard", "GAMMA")
		}, 2, false},
		{"make hard link", func(m *mirror) {
			must(m.t, os.Remove(m.path("z-hard")))
			must(m.t, os.Link(m.path("a.txt"), m.path("z-hard")))
		}, 1, true},
		{"file to dir", func(m *mirror) {
			must(m.t, os.Remove(m.path("a.txt")))
			m.write("a.txt/inside", "deep")
		}, 2, true}, // z-hard is a file of its own again
		{"dir to file", func(m *mirror) {
			must(m.t, os.RemoveAll(m.path("a.txt")))
			m.write("a.txt", "flat")
		}, 1, true},
		{"link to dir to dir", func(m *mirror) {
			must(m.t, os.Remove(m.path("dirlink")))
			m.write("dirlink/b/c.txt", "own")
		}, 1, true},
		{"dir to link", func(m *mirror) {
			must(m.t, os.RemoveAll(m.path("dirlink")))
			must(m.t, os.Symlink("/etc", m.path("dirlink")))
		}, 0, true},
		{"file to link and back", func(m *mirror) {
			must(m.t, os.Remove(m.path("a.txt")))
			must(m.t, os.Symlink("a", m.path("a.txt")))
		}, 0, true},
		{"link to file", func(m *mirror) {
			must(m.t, os.Remove(m.path("a.txt")))
			m.write("a.txt", "x")
		}, 1, true},
		{"xattr", func(m *mirror) { must(m.t, syscall.Setxattr(m.path("a.txt"), "user.test", []byte("v"), 0)) }, 1, true},
		{"all gone", func(m *mirror) {
			des, err := os.ReadDir(m.src)
			must(m.t, err)
			for _, d := range des {
				must(m.t, os.RemoveAll(m.path(d.Name())))
			}
		}, 0, true},
		{"all back", func(m *mirror) { m.fill() }, 8, true},
	}
	for _, stock := range []bool{false, true} {
		t.Run(fmt.Sprintf("stock=%v", stock), func(t *testing.T) {
			m := newMirror(t)
			m.stock = stock
			m.fill()
			root := m.sync().root
			for _, s := range steps {
				s.change(m)
				x := m.sync()
				if !stock && m.reqs != s.reqs {
					t.Errorf("%s: %d files asked for, want %d", s.name, m.reqs, s.reqs)
				}
				if moved := x.root != root; moved != s.moved {
					t.Errorf("%s: root changed: %v, want %v", s.name, moved, s.moved)
				}
				root = x.root
				if t.Failed() {
					t.Fatalf("after %s", s.name)
				}
			}
		})
	}
}

// Layers hold hard links to files of the tree, so no inode may ever change.
func TestInodesAreImmutable(t *testing.T) {
	for _, stock := range []bool{false, true} {
		m := newMirror(t)
		m.stock = stock
		m.fill()
		m.sync()
		farm := t.TempDir()
		tree := filepath.Join(m.dir, "tree")
		names := []string{"a.txt", "a-b/x", "big", "medium", "exact", "a/b/c.txt"}
		for i, n := range names {
			must(t, os.Link(filepath.Join(tree, n), filepath.Join(farm, fmt.Sprint(i))))
		}
		before := scan(t, farm)
		m.write("a.txt", "other")
		must(t, os.Chmod(m.path("a-b/x"), 0o600))
		m.write("big", big(3<<20, 9))
		must(t, os.Chtimes(m.path("medium"), time.Unix(1, 0), time.Unix(2, 0)))
		must(t, os.Remove(m.path("exact")))
		m.write("z-hard", "through the other name")
		m.sync()
		if after := scan(t, farm); !maps.Equal(before, after) {
			t.Errorf("stock=%v: linked files changed", stock)
		}
	}
}

func TestInodesAreKept(t *testing.T) {
	m := newMirror(t)
	m.stock = true
	m.fill()
	m.sync()
	names := []string{"a.txt", "big", "medium", "z-hard", "a/b/empty"}
	var before []uint64
	for _, n := range names {
		before = append(before, inode(t, filepath.Join(m.dir, "tree", n)))
	}
	m.sync()
	for i, n := range names {
		if inode(t, filepath.Join(m.dir, "tree", n)) != before[i] {
			t.Errorf("%s was written again", n)
		}
	}
}

// A file changed just before it is listed cannot be told from its next version by time.
func TestRacyChange(t *testing.T) {
	m := newMirror(t)
	m.now = time.Now
	for i := range 200 {
		m.write("f", fmt.Sprintf("%04d", i))
		must(t, os.Chtimes(m.path("f"), time.Unix(1, 0), time.Unix(1, 0)))
		m.sync()
	}
}

func TestFailedTransferIsResumed(t *testing.T) {
	stop := errors.New("cut")
	for _, at := range []int64{1, 100, small, small + 5, 2 << 20, 3 << 20} {
		for _, first := range []bool{true, false} {
			t.Run(fmt.Sprintf("%d,%v", at, first), func(t *testing.T) {
				m := newMirror(t)
				m.fill()
				if !first {
					m.sync()
					for _, p := range []string{"a.txt", "big", "medium", "exact", "a/b/c.txt"} {
						b, err := os.ReadFile(m.path(p))
						must(t, err)
						m.write(p, string(bytes.ToUpper(b)))
					}
					must(t, os.RemoveAll(m.path("a-b")))
					must(t, os.RemoveAll(m.path("emptydir")))
				}
				m.after = func(n int64) error {
					if n > at {
						return stop
					}
					return nil
				}
				if _, err := m.try(t.Context()); err == nil { // the client may say why, or just stop
					t.Fatal("no error")
				}
				m.after = nil
				m.sync()
				m.sync()
				if m.reqs != 0 {
					t.Errorf("%d files asked for when nothing changed", m.reqs)
				}
			})
		}
	}
}

func TestCancel(t *testing.T) {
	m := newMirror(t)
	m.fill()
	ctx, cancel := context.WithCancel(t.Context())
	m.after = func(n int64) error {
		if n > 1<<20 {
			cancel()
		}
		return nil
	}
	if _, err := m.try(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	m.after = nil
	m.sync()
}

// What a crash or a power cut may leave is repaired.
func TestUnsureTreeIsVerified(t *testing.T) {
	cases := map[string]func(m *mirror, tree string){
		"content": func(m *mirror, tree string) {
			fi, err := os.Stat(filepath.Join(tree, "a.txt"))
			must(t, err)
			must(t, os.WriteFile(filepath.Join(tree, "a.txt"), []byte("xxxxx"), 0o644))
			must(t, os.Chtimes(filepath.Join(tree, "a.txt"), fi.ModTime(), fi.ModTime()))
		},
		"lost file": func(m *mirror, tree string) { must(t, os.Remove(filepath.Join(tree, "a/b/c.txt"))) },
		"lost dir":  func(m *mirror, tree string) { must(t, os.RemoveAll(filepath.Join(tree, "a"))) },
		"extra":     func(m *mirror, tree string) { must(t, os.MkdirAll(filepath.Join(tree, "new/dir"), 0o755)) },
		"mode":      func(m *mirror, tree string) { must(t, os.Chmod(filepath.Join(tree, "a-b"), 0o700)) },
		"hard link": func(m *mirror, tree string) { must(t, os.Remove(filepath.Join(tree, "z-hard"))) },
		"other type": func(m *mirror, tree string) {
			must(t, os.RemoveAll(filepath.Join(tree, "a")))
			must(t, os.Symlink("/etc", filepath.Join(tree, "a")))
		},
		"no index":   func(m *mirror, tree string) { must(t, os.Remove(filepath.Join(m.dir, "index"))) },
		"torn index": func(m *mirror, tree string) { must(t, os.Truncate(filepath.Join(m.dir, "index"), 200)) },
		"temporary":  func(m *mirror, tree string) { must(t, os.WriteFile(filepath.Join(m.dir, "tmp/1"), nil, 0o600)) },
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			m := newMirror(t)
			m.fill()
			m.sync()
			damage(m, filepath.Join(m.dir, "tree"))
			must(t, os.WriteFile(filepath.Join(m.dir, "dirty"), nil, 0o600))
			m.sync()
		})
	}
	t.Run("other boot", func(t *testing.T) {
		m := newMirror(t)
		m.fill()
		x := m.sync()
		must(t, os.WriteFile(filepath.Join(m.dir, "index"), x.encode("another"), 0o600))
		must(t, os.WriteFile(filepath.Join(m.dir, "tree/a.txt"), nil, 0o644))
		m.sync()
		if m.reqs != 1 {
			t.Errorf("%d files asked for, want 1", m.reqs)
		}
	})
}

// Another directory of the same client lends its files.
func TestDonor(t *testing.T) {
	m := newMirror(t)
	m.fill()
	x := m.sync()
	two := *m
	two.dir = t.TempDir()
	two.o.donors = []*Tree{newTree(x, filepath.Join(m.dir, "tree"), func() {})}
	two.sync()
	if two.reqs != 0 {
		t.Errorf("%d files asked for, want none", two.reqs)
	}
	m.write("a.txt", "newer")
	two.sync()
	m.sync()
	if two.reqs != 1 {
		t.Errorf("%d files asked for, want 1", two.reqs)
	}
}

func TestUnreadableFile(t *testing.T) {
	m := newMirror(t)
	m.write("bad", "secret")
	m.write("good", "good")
	src := m.fs()
	var warned string
	m.o.warn = func(path, reason string) { warned += path }
	m.o.open = func(ctx context.Context) (Stream, error) {
		daemon, _ := connect(ctx, func(ctx context.Context, s *side) error {
			return fsutil.Send(ctx, s, refuse{src}, nil)
		})
		return daemon, nil
	}
	for range 2 {
		x, err := receive(t.Context(), m.dir, m.o)
		must(t, err)
		tree := newTree(x, filepath.Join(m.dir, "tree"), func() {})
		if _, err := tree.Open("bad"); !errors.Is(err, errUnread) {
			t.Errorf("Open(bad): %v", err)
		}
		if _, err := tree.Open("good"); err != nil {
			t.Error(err)
		}
	}
	if warned != "badbad" {
		t.Errorf("warned of %q", warned)
	}
	m.o = options{}
	m.sync()
}

type refuse struct{ fsutil.FS }

func (r refuse) Open(path string) (io.ReadCloser, error) {
	if path == "bad" {
		return nil, fs.ErrPermission
	}
	return r.FS.Open(path)
}

func TestDevicesAreLeftOut(t *testing.T) {
	m := newMirror(t)
	m.write("a", "a")
	must(t, syscall.Mkfifo(m.path("fifo"), 0o644))
	must(t, syscall.Mknod(m.path("null"), syscall.S_IFCHR|0o666, 1<<8|3))
	var warned []string
	m.o.warn = func(path, _ string) { warned = append(warned, path) }
	m.sync()
	if !slices.Equal(warned, []string{"fifo", "null"}) {
		t.Errorf("warned of %v", warned)
	}
}
