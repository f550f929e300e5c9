package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc/mem"
)

// A side is one end of a stream that carries packets as bytes.
type side struct {
	ctx     context.Context
	in, out chan []byte
	peer    error // why in was closed, once it is

	reqs  atomic.Int64 // files asked for, counted where they arrive
	bytes atomic.Int64 // of content sent
	after func(sent int64) error
	fail  context.CancelCauseFunc // breaks the stream
	done  chan struct{}           // closed when the client has returned
}

func (s *side) Context() context.Context { return s.ctx }

func (s *side) SendMsg(m any) error {
	p := m.(*types.Packet)
	if p.Type == types.PACKET_DATA && s.after != nil {
		if err := s.after(s.bytes.Add(int64(len(p.Data)))); err != nil {
			s.fail(err)
			return err
		}
	}
	b, err := p.Marshal()
	if err != nil {
		return err
	}
	select {
	case s.out <- b:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

func (s *side) RecvMsg(m any) error {
	select {
	case b, ok := <-s.in:
		if !ok {
			if s.peer != nil {
				return s.peer
			}
			return io.EOF
		}
		switch m := m.(type) {
		case *types.Packet:
			if err := m.Unmarshal(b); err != nil {
				return err
			}
			if m.Type == types.PACKET_REQ {
				s.reqs.Add(1)
			}
			return nil
		case *packet:
			return m.Decode(mem.BufferSlice{mem.SliceBuffer(b)})
		}
		return errors.New("unexpected message")
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

// connect runs send as the client of a transfer and returns the daemon's end.
func connect(ctx context.Context, send func(context.Context, *side) error) (*side, *side) {
	a, b := make(chan []byte, 16), make(chan []byte, 16)
	daemon := &side{ctx: ctx, in: a, out: b}
	ctx, fail := context.WithCancelCause(ctx)
	client := &side{ctx: ctx, in: b, out: a, fail: fail, done: make(chan struct{})}
	go func() {
		daemon.peer = send(ctx, client)
		if cause := context.Cause(ctx); cause != nil {
			daemon.peer = cause
		}
		fail(nil)
		close(a)
		close(client.done)
	}()
	return daemon, client
}

// A mirror is a source directory and what a daemon has of it.
type mirror struct {
	t        testing.TB
	src, dir string
	stock    bool // a client that does not send StatXattr
	o        options
	now      func() time.Time
	after    func(int64) error
	filter   func(path string, st *types.Stat) bool

	reqs, bytes int64 // of the last sync
}

func newMirror(t testing.TB) *mirror {
	// By default all changes are old enough to be told apart.
	return &mirror{t: t, src: t.TempDir(), dir: t.TempDir(), now: func() time.Time { return time.Now().Add(time.Hour) }}
}

func (m *mirror) fs() fsutil.FS {
	m.t.Helper()
	src, err := fsutil.NewFS(m.src)
	if err != nil {
		m.t.Fatal(err)
	}
	src, err = fsutil.NewFilterFS(src, &fsutil.FilterOpt{Map: func(path string, st *types.Stat) fsutil.MapResult {
		st.Uid, st.Gid = 0, 0
		if m.filter != nil && !m.filter(path, st) {
			return fsutil.MapResultExclude
		}
		if m.stock {
			return fsutil.MapResultKeep
		}
		fi, err := os.Lstat(filepath.Join(m.src, path))
		if err != nil {
			return fsutil.MapResultKeep
		}
		if v := ClientStat(fi, m.now()); v != nil {
			if st.Xattrs == nil {
				st.Xattrs = map[string][]byte{}
			}
			st.Xattrs[StatXattr] = v
		}
		return fsutil.MapResultKeep
	}})
	if err != nil {
		m.t.Fatal(err)
	}
	return src
}

func (m *mirror) try(ctx context.Context) (*index, error) {
	m.t.Helper()
	var client *side
	o := m.o
	src := m.fs()
	o.open = func(ctx context.Context) (Stream, error) {
		var daemon *side
		daemon, client = connect(ctx, func(ctx context.Context, s *side) error { return fsutil.Send(ctx, s, src, nil) })
		client.after = func(n int64) error {
			if m.after != nil {
				return m.after(n)
			}
			return nil
		}
		return daemon, nil
	}
	x, err := receive(ctx, m.dir, o)
	<-client.done
	m.reqs, m.bytes = client.reqs.Load(), client.bytes.Load()
	return x, err
}

// sync transfers and checks that the tree is what the source is.
func (m *mirror) sync() *index {
	m.t.Helper()
	x, err := m.try(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	m.check(x)
	return x
}

// A node is what a path is, for comparing trees.
type node struct {
	Mode  fs.FileMode
	Mtime int64
	Link  string
	Sum   [32]byte
	Group string // first path of the inode
}

func scan(t testing.TB, root string) map[string]node {
	t.Helper()
	nodes, inodes := map[string]node{}, map[uint64]string{}
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		path := name[len(root)+1:]
		n := node{Mode: fi.Mode(), Mtime: fi.ModTime().UnixNano()}
		switch {
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			n.Sum = sha256.Sum256(b)
			ino := fi.Sys().(*syscall.Stat_t).Ino
			if _, ok := inodes[ino]; !ok {
				inodes[ino] = path
			}
			n.Group = inodes[ino]
		case fi.Mode().Type() == fs.ModeSymlink:
			n.Link, err = os.Readlink(name)
		case !fi.IsDir():
			return nil // not transferred
		}
		nodes[path] = n
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return nodes
}

func (m *mirror) check(x *index) {
	m.t.Helper()
	want, got := scan(m.t, m.src), scan(m.t, filepath.Join(m.dir, "tree"))
	if !maps.Equal(want, got) {
		for p, n := range want {
			if got[p] != n {
				m.t.Errorf("%s is\n%+v, want\n%+v", p, got[p], n)
			}
		}
		for p := range got {
			if _, ok := want[p]; !ok {
				m.t.Errorf("%s is left", p)
			}
		}
	}
	tree := newTree(x, filepath.Join(m.dir, "tree"), func() {})
	if tree.Len() != len(want) {
		m.t.Errorf("index has %d entries, want %d", tree.Len(), len(want))
	}
	for p, n := range want {
		st, err := tree.Lstat(p)
		if err != nil {
			m.t.Error(err)
			continue
		}
		if fs.FileMode(st.Mode) != n.Mode || st.ModTime != n.Mtime || st.Linkname != n.Link {
			m.t.Errorf("index says %v of %s, want %+v", st, p, n)
		}
		if sum, ok := tree.FileDigest(p); ok != n.Mode.IsRegular() || sum != n.Sum {
			m.t.Errorf("index says digest %x (%v) of %s, want %x", sum, ok, p, n.Sum)
		}
		if n.Mode.IsDir() {
			names, err := tree.ReadDir(p)
			des, err2 := os.ReadDir(filepath.Join(m.src, p))
			if err != nil || err2 != nil {
				m.t.Error(err, err2)
			}
			var list []string
			for _, d := range des {
				list = append(list, d.Name())
			}
			if !slices.Equal(names, list) {
				m.t.Errorf("ReadDir(%s) = %v, want %v", p, names, list)
			}
		}
	}
	if x.root != rootSum(x.entries) {
		m.t.Error("root is not that of the entries")
	}
	loaded, sure, err := loadIndex(m.dir)
	if err != nil || !sure || !slices.Equal(loaded.entries, x.entries) || loaded.root != x.root {
		m.t.Errorf("saved index differs from the one returned (sure %v, %v)", sure, err)
	}
	if left, _ := os.ReadDir(filepath.Join(m.dir, "tmp")); len(left) > 0 {
		m.t.Errorf("%d temporary files are left", len(left))
	}
}

func (m *mirror) write(path, content string) {
	m.t.Helper()
	name := filepath.Join(m.src, path)
	must(m.t, os.MkdirAll(filepath.Dir(name), 0o755))
	must(m.t, os.WriteFile(name, []byte(content), 0o644))
}

func (m *mirror) path(p string) string { return filepath.Join(m.src, p) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func inode(t testing.TB, name string) uint64 {
	t.Helper()
	fi, err := os.Lstat(name)
	must(t, err)
	return fi.Sys().(*syscall.Stat_t).Ino
}

func big(n int, seed byte) string {
	b := make([]byte, n)
	x := uint32(seed) + 1
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return string(b)
}

// fill makes a tree with one of everything.
func (m *mirror) fill() {
	m.t.Helper()
	m.write("a.txt", "alpha")
	m.write("a/b/c.txt", "gamma")
	m.write("a/b/empty", "")
	m.write("a-b/x", "x")
	m.write("большой/файл с пробелом", "unicode")
	m.write("big", big(3<<20, 1))
	m.write("medium", big(small+1, 2))
	m.write("exact", big(small, 3))
	must(m.t, os.MkdirAll(m.path("emptydir/inner"), 0o700))
	must(m.t, os.Symlink("../a.txt", m.path("a/up")))
	must(m.t, os.Symlink("/etc/passwd", m.path("abs")))
	must(m.t, os.Symlink("a", m.path("dirlink")))
	must(m.t, os.Link(m.path("a/b/c.txt"), m.path("z-hard")))
	must(m.t, os.Chmod(m.path("a-b/x"), 0o755|fs.ModeSetuid))
	must(m.t, os.Chmod(m.path("a-b"), 0o1777|fs.ModeSticky))
}

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
