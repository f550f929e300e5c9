package local

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
	controlapi "github.com/moby/buildkit/api/services/control"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/session/grpchijack"
	digest "github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

type control struct {
	controlapi.UnimplementedControlServer
	m *session.Manager
}

func (c *control) Session(s controlapi.Control_SessionServer) error {
	return c.m.Handle(s.Context(), s)
}

// A world is a daemon's source and a way to connect clients to it.
type world struct {
	t      testing.TB
	src    *Source
	store  *snapshot.Store
	client controlapi.ControlClient
}

func newWorld(t testing.TB) *world {
	t.Helper()
	store, err := snapshot.Open(context.Background(), snapshot.Config{Root: t.TempDir()})
	must(t, err)
	m, err := session.NewManager()
	must(t, err)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	must(t, err)
	srv := grpc.NewServer(grpc.ForceServerCodecV2(session.Codec{}))
	controlapi.RegisterControlServer(srv, &control{m: m})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	cc, err := grpc.NewClient("unix://"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(session.Codec{})))
	must(t, err)
	t.Cleanup(func() {
		cc.Close()
		srv.Stop()
		<-done
		must(t, store.Close())
	})
	return &world{t: t, src: New(Config{Store: store, Sessions: m}), store: store, client: controlapi.NewControlClient(cc)}
}

// join connects a client that offers directories.
func (w *world) join(key string, dirs map[string]fsutil.FS) *bksession.Session {
	w.t.Helper()
	s, err := bksession.NewSession(context.Background(), key)
	must(w.t, err)
	s.Allow(filesync.NewFSSyncProvider(filesync.StaticDirSource(dirs)))
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(context.Background(), grpchijack.Dialer(w.client))
	}()
	w.t.Cleanup(func() {
		s.Close()
		<-done
	})
	return s
}

// read returns the content of all regular files.
func read(t testing.TB, tree *Tree) map[string]string {
	t.Helper()
	files := map[string]string{}
	var walk func(dir string)
	walk = func(dir string) {
		names, err := tree.ReadDir(dir)
		must(t, err)
		for _, n := range names {
			p := strings.TrimPrefix(dir+"/"+n, "/")
			st, err := tree.Lstat(p)
			must(t, err)
			switch {
			case st.IsDir():
				walk(p)
			case fs.FileMode(st.Mode).IsRegular():
				f, err := tree.Open(p)
				must(t, err)
				b, err := io.ReadAll(f)
				must(t, err)
				f.Close()
				files[p] = string(b)
				if sum, ok := tree.FileDigest(p); !ok || sum != sha256.Sum256(b) {
					t.Errorf("wrong digest of %s", p)
				}
			}
		}
	}
	walk("")
	return files
}

func (w *world) sync(s *bksession.Session, req Request) *Tree {
	w.t.Helper()
	tree, err := w.src.Sync(context.Background(), session.NewGroup(s.ID()), req, progress.NewLog())
	must(w.t, err)
	return tree
}

func TestSync(t *testing.T) {
	w, m := newWorld(t), newMirror(t)
	m.fill()
	s := w.join("node", map[string]fsutil.FS{"context": m.fs()})
	tree := w.sync(s, Request{Name: "context"})
	m.dir = filepath.Dir(tree.Dir())
	m.check(tree.index)
	one := tree.Digest()
	tree.Release()

	again := w.sync(s, Request{Name: "context"})
	if again.Dir() != tree.Dir() || again.Digest() != one {
		t.Errorf("the second transfer went to another directory, or has another digest")
	}
	again.Release()

	part := w.sync(s, Request{Name: "context", Include: []string{"большой", "a"}, Exclude: []string{"a/b/empty", "фу"}})
	defer part.Release()
	if got := read(t, part); len(got) != 2 || got["a/b/c.txt"] != "gamma" || got["большой/файл с пробелом"] != "unicode" {
		t.Errorf("patterns gave %v", got)
	}
	follow := w.sync(s, Request{Name: "context", FollowPaths: []string{"a/up"}})
	defer follow.Release()
	if got := read(t, follow); len(got) != 1 || got["a.txt"] != "alpha" {
		t.Errorf("follow paths gave %v", got)
	}
}

func TestSyncErrors(t *testing.T) {
	w, m := newWorld(t), newMirror(t)
	s := w.join("node", map[string]fsutil.FS{"context": m.fs()})
	_, err := w.src.Sync(t.Context(), session.NewGroup(s.ID()), Request{Name: "other"}, nil)
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), `no access allowed to dir "other"`) {
		t.Errorf("got %v", err)
	}
	if _, err := w.src.Sync(t.Context(), session.NewGroup(), Request{Name: "context"}, nil); !errors.Is(err, session.ErrNoSession) {
		t.Errorf("got %v", err)
	}
}

// A tree in use stays what it was while the same directory is received again.
func TestTreesInUseDoNotChange(t *testing.T) {
	w, m := newWorld(t), newMirror(t)
	s := w.join("node", map[string]fsutil.FS{"context": m.fs()})
	var trees []*Tree
	var want []string
	m.write("same", "same")
	for i := range 5 {
		m.write("f", fmt.Sprint("version ", i))
		trees = append(trees, w.sync(s, Request{Name: "context"}))
		want = append(want, fmt.Sprint("version ", i))
	}
	for i, tree := range trees {
		if got := read(t, tree); got["f"] != want[i] || got["same"] != "same" {
			t.Errorf("tree %d is %v", i, got)
		}
	}
	if inode(t, filepath.Join(trees[0].Dir(), "same")) != inode(t, filepath.Join(trees[4].Dir(), "same")) {
		t.Error("the unchanged file was sent twice")
	}
	for _, tree := range trees {
		tree.Release()
	}
	for _, d := range w.src.dirs {
		if len(d.live) != 0 {
			t.Error("released trees are remembered")
		}
	}
}

// With other patterns the files that are here already are not sent again.
func TestOtherPatterns(t *testing.T) {
	w, m := newWorld(t), newMirror(t)
	m.fill()
	src := &opens{FS: m.fs()}
	s := w.join("node", map[string]fsutil.FS{"context": src})
	w.sync(s, Request{Name: "context"}).Release()
	n := src.n.Load()
	tree := w.sync(s, Request{Name: "context", FollowPaths: []string{"a", "big"}})
	defer tree.Release()
	if got := read(t, tree); got["a/b/c.txt"] != "gamma" || len(got["big"]) != 3<<20 {
		t.Errorf("got %q", got)
	}
	if src.n.Load() != n {
		t.Errorf("%d files were sent again", src.n.Load()-n)
	}
}

// opens counts the files a client reads.
type opens struct {
	fsutil.FS
	n atomic.Int64
}

func (o *opens) Open(path string) (io.ReadCloser, error) {
	o.n.Add(1)
	return o.FS.Open(path)
}

func TestConcurrentSyncs(t *testing.T) {
	w := newWorld(t)
	var wg sync.WaitGroup
	for i := range 8 {
		m := newMirror(t)
		m.stock = i%2 == 0
		m.fill()
		m.write("who", fmt.Sprint(i))
		must(t, os.Chtimes(m.path("who"), time.Unix(1, 0), time.Unix(1, 0)))
		s := w.join("the same key", map[string]fsutil.FS{"context": m.fs()})
		wg.Go(func() {
			for range 10 {
				tree, err := w.src.Sync(t.Context(), session.NewGroup(s.ID()), Request{Name: "context"}, nil)
				if err != nil {
					t.Error(err)
					return
				}
				if got := read(t, tree)["who"]; got != fmt.Sprint(i) {
					t.Errorf("client %d got the files of %s", i, got)
				}
				tree.Release()
			}
		})
	}
	wg.Wait()
}

func TestStoppedClient(t *testing.T) {
	w, m := newWorld(t), newMirror(t)
	m.fill()
	var s *bksession.Session
	src := m.fs()
	s = w.join("node", map[string]fsutil.FS{"context": leave{src, func() { go s.Close() }}})
	if _, err := w.src.Sync(t.Context(), session.NewGroup(s.ID()), Request{Name: "context"}, nil); err == nil {
		t.Error("no error")
	}
	s = w.join("node", map[string]fsutil.FS{"context": src})
	tree := w.sync(s, Request{Name: "context"})
	m.dir = filepath.Dir(tree.Dir())
	m.check(tree.index)
	tree.Release()
}

type leave struct {
	fsutil.FS
	now func()
}

func (l leave) Open(path string) (io.ReadCloser, error) {
	if path == "big" {
		l.now()
	}
	return l.FS.Open(path)
}

func TestContextDigest(t *testing.T) {
	sum := func(change func(m *mirror)) digest.Digest {
		m := newMirror(t)
		m.write("a-b", "1")
		m.write("a/x", "2")
		must(t, os.Symlink("x", m.path("a/l")))
		must(t, os.Mkdir(m.path("empty"), 0o755))
		change(m)
		tree := newTree(m.sync(), m.dir, func() {})
		return tree.ContextDigest()
	}
	base := sum(func(*mirror) {})
	for name, c := range map[string]struct {
		change func(m *mirror)
		same   bool
	}{
		"copy":   {func(*mirror) {}, true},
		"touch":  {func(m *mirror) { must(t, os.Chtimes(m.path("a/x"), time.Unix(5, 0), time.Unix(5, 0))) }, true},
		"chmod":  {func(m *mirror) { must(t, os.Chmod(m.path("a/x"), 0o755)) }, false},
		"link":   {func(m *mirror) { must(t, os.Remove(m.path("a/l"))); must(t, os.Symlink("y", m.path("a/l"))) }, false},
		"rename": {func(m *mirror) { must(t, os.Rename(m.path("a-b"), m.path("a-c"))) }, false},
		"bytes":  {func(m *mirror) { m.write("a/x", "3") }, false},
		"empty":  {func(m *mirror) { must(t, os.Remove(m.path("empty"))) }, false},
	} {
		if got := sum(c.change); (got == base) != c.same {
			t.Errorf("%s: digest equal: %v, want %v", name, got == base, c.same)
		}
	}
}
