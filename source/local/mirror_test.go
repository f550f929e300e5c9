package local

import (
	"context"
	"crypto/sha256"
	"errors"
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
