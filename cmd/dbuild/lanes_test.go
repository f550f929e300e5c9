package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/contextfs"
	buildlog "github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	lane "github.com/dbuild/dbuild/session"
	"github.com/dbuild/dbuild/source/local"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/grpchijack"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// A laneWorld is what of a daemon receives files, and a client whose session offers none:
// what arrives has come on a lane.
type laneWorld struct {
	t      *testing.T
	source *local.Source
	id     string
	dir    string
}

type laneControl struct {
	controlapi.UnimplementedControlServer
	m *lane.Manager
}

func (c *laneControl) Session(s controlapi.Control_SessionServer) error {
	return c.m.Handle(s.Context(), s)
}

func newLaneWorld(t *testing.T) *laneWorld {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	store, err := snapshot.Open(context.Background(), snapshot.Config{Root: t.TempDir()})
	must(err)
	m, err := lane.NewManager()
	must(err)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	must(err)
	srv := grpc.NewServer(grpc.ForceServerCodecV2(lane.Codec{}))
	controlapi.RegisterControlServer(srv, &laneControl{m: m})
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	cc, err := grpc.NewClient("unix://"+l.Addr().String(),
		append(transport(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	must(err)
	dial := grpchijack.Dialer(controlapi.NewControlClient(cc))

	w := &laneWorld{t: t, source: local.New(local.Config{Store: store, Sessions: m}), dir: t.TempDir()}
	f, err := contextfs.New(w.dir)
	must(err)
	s, err := session.NewSession(context.Background(), "key")
	must(err)
	w.id = s.ID()
	stop := serveLanes(context.Background(), dial, s.ID(), map[string]*contextfs.FS{"context": f.WithVersions(statXattr, clientStat)})
	wg.Go(func() { _ = s.Run(context.Background(), dial) })
	t.Cleanup(func() {
		stop()
		s.Close()
		cc.Close()
		srv.Stop()
		wg.Wait()
		must(store.Close())
	})
	return w
}

func (w *laneWorld) request(req local.Request) (*local.Tree, error) {
	return w.source.Sync(context.Background(), lane.NewGroup(w.id), req, buildlog.NewLog())
}

// check receives the directory and compares it with what is there.
func (w *laneWorld) check(req local.Request) *local.Tree {
	w.t.Helper()
	req.Name = "context"
	tree, err := w.request(req)
	if err != nil {
		w.t.Fatal(err)
	}
	err = filepath.WalkDir(w.dir, func(name string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(w.dir, name)
		if err != nil || rel == "." {
			return err
		}
		st, err := tree.Lstat(rel)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		if fs.FileMode(st.Mode) != fi.Mode() || st.ModTime != fi.ModTime().UnixNano() {
			w.t.Errorf("%s: %v, %v", rel, fs.FileMode(st.Mode), st.ModTime)
		}
		if !fi.Mode().IsRegular() {
			return nil
		}
		want, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		f, err := tree.Open(rel)
		if err != nil {
			return err
		}
		defer f.Close()
		got, err := io.ReadAll(f)
		if !bytes.Equal(got, want) {
			w.t.Errorf("%s: %d bytes are not the %d that are there", rel, len(got), len(want))
		}
		attr := make([]byte, 100)
		n, _ := unix.Lgetxattr(name, "user.test", attr)
		if string(st.Xattrs["user.test"]) != string(attr[:max(n, 0)]) {
			w.t.Errorf("%s: attributes %q", rel, st.Xattrs)
		}
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return tree
}

func (w *laneWorld) write(name string, data []byte) {
	w.t.Helper()
	p := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(p, data, 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// fill makes files of sizes around those of buffers.
func (w *laneWorld) fill() {
	for i, n := range []int{0, 1, 1000, 32 << 10, 128<<10 - 1, 128 << 10, 128<<10 + 1, 256 << 10, 300 << 10, 3 << 20} {
		b := make([]byte, n)
		for k := range b {
			b[k] = byte(k*7 + i + k>>13)
		}
		w.write(fmt.Sprintf("d%d/f%d", i%3, n), b)
	}
	if err := os.Link(filepath.Join(w.dir, "d2/f1000"), filepath.Join(w.dir, "link")); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Symlink("d2/f1000", filepath.Join(w.dir, "symlink")); err != nil {
		w.t.Fatal(err)
	}
	w.attribute("d1/f1", "v")
}

func (w *laneWorld) attribute(name, value string) {
	w.t.Helper()
	if err := unix.Setxattr(filepath.Join(w.dir, name), "user.test", []byte(value), 0); err != nil {
		w.t.Fatal(err)
	}
}

func TestLaneCarriesDirectories(t *testing.T) {
	w := newLaneWorld(t)
	w.fill()
	first := w.check(local.Request{})
	if n := first.Len(); n != 15 {
		t.Errorf("%d entries", n)
	}
	// While the first is in use, another directory is made from it.
	again := w.check(local.Request{})
	if first.Digest() != again.Digest() {
		t.Error("the same directory has another digest")
	}
	first.Release()
	again.Release()

	w.write("d0/f0", []byte("now it is longer"))
	if err := os.Remove(filepath.Join(w.dir, "d1/f1")); err != nil {
		t.Fatal(err)
	}
	w.check(local.Request{}).Release()
	w.check(local.Request{Differ: local.DifferNone}).Release()
}

// What size and time do not show is noticed: other bytes, other attributes.
func TestLaneNoticesWhatTimesDoNotTell(t *testing.T) {
	w := newLaneWorld(t)
	w.write("f", []byte("one"))
	w.write("other", []byte("same"))
	name := filepath.Join(w.dir, "f")
	fi, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	digests := map[string]bool{}
	for i, change := range []func(){
		func() {},
		func() { w.write("f", []byte("two")) },
		func() { w.attribute("f", "v") },
		func() { w.attribute("f", "w") },
		func() { w.write("f", []byte("six")) },
	} {
		change()
		if err := os.Chtimes(name, fi.ModTime(), fi.ModTime()); err != nil {
			t.Fatal(err)
		}
		for range 3 { // soon after the change, and when its time can be relied on
			tree := w.check(local.Request{})
			digests[tree.Digest().String()] = true
			tree.Release()
			for changed(t, name) {
			}
		}
		if len(digests) != i+1 {
			t.Fatalf("change %d: %d different trees", i, len(digests))
		}
	}
}

// changed reports whether name was changed so shortly ago that its version is not told.
func changed(t *testing.T, name string) bool {
	t.Helper()
	fi, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	return local.ClientStat(fi, time.Now()) == nil
}

func TestLanePatterns(t *testing.T) {
	w := newLaneWorld(t)
	w.fill()
	tree, err := w.request(local.Request{Name: "context", Exclude: []string{"d0", "*link"}, FollowPaths: []string{"symlink", "d1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Release()
	names, err := tree.ReadDir("")
	if err != nil || strings.Join(names, " ") != "d1 d2" {
		t.Fatal(names, err)
	}
	if names, _ := tree.ReadDir("d2"); strings.Join(names, " ") != "f1000" {
		t.Fatal(names)
	}
}

func TestLaneRefuses(t *testing.T) {
	w := newLaneWorld(t)
	if _, err := w.request(local.Request{Name: "secrets"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("another directory: %v", err)
	}
	if _, err := w.request(local.Request{Name: "context", Exclude: []string{"[a"}}); err == nil || !strings.Contains(err.Error(), "syntax error") {
		t.Errorf("a bad pattern: %v", err)
	}
	w.write("f", []byte("still works"))
	w.check(local.Request{}).Release()
}

func TestLanesAtOnce(t *testing.T) {
	w := newLaneWorld(t)
	w.fill()
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			tree, err := w.request(local.Request{Name: "context", SharedKeyHint: fmt.Sprint(i % 4)})
			if err != nil {
				t.Error(err)
				return
			}
			tree.Release()
		})
	}
	wg.Wait()
}
