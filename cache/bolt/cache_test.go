package bolt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// A layeredRef is a Ref as a worker makes them.
type layeredRef struct{ snap *snapshot.Ref }

func wrap(s *snapshot.Ref) solver.Ref { return &layeredRef{s} }

func (r *layeredRef) Snapshot() *snapshot.Ref { return r.snap }

func (r *layeredRef) ID() string {
	if r.snap == nil {
		return "scratch"
	}
	return r.snap.ID()
}

func (r *layeredRef) Retain() solver.Ref {
	if r.snap == nil {
		return r
	}
	return &layeredRef{r.snap.Retain()}
}

func (r *layeredRef) Release() {
	if r.snap != nil {
		r.snap.Release()
	}
}

// A treeRef has no layers.
type treeRef struct{}

func (treeRef) ID() string         { return "tree" }
func (treeRef) Retain() solver.Ref { return treeRef{} }
func (treeRef) Release()           {}

// A slowStore commits nothing of what it is given before it is told to.
type slowStore struct {
	*snapshot.Store
	lost bool // layers cannot be loaded

	mu    sync.Mutex
	queue []func(*bolt.Tx) error
	slow  bool
}

func (s *slowStore) Later(fn func(*bolt.Tx) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.slow {
		s.queue = append(s.queue, fn)
		return
	}
	s.Store.Later(fn)
}

func (s *slowStore) LoadAs(ctx context.Context, layers []string, preferred []digest.Digest) (*snapshot.Ref, error) {
	if s.lost {
		return nil, errors.New("gone")
	}
	return s.Store.LoadAs(ctx, layers, preferred)
}

type fixture struct {
	*testing.T
	root  string
	store *slowStore
	*Cache
}

func newFixture(t *testing.T) *fixture {
	f := &fixture{T: t, root: t.TempDir()}
	f.open()
	t.Cleanup(f.close)
	return f
}

func (f *fixture) open() {
	f.Helper()
	s, err := snapshot.Open(f.Context(), snapshot.Config{
		Root: f.root,
		Fetch: func(context.Context, bksession.Group, []registry.Location, ocispec.Descriptor) (io.ReadCloser, error) {
			return nil, errors.New("no network")
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.store = &slowStore{Store: s}
	if f.Cache, err = New(f.store, wrap); err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) close() {
	f.Helper()
	f.flush()
	if err := f.store.Close(); err != nil {
		f.Error(err)
	}
}

// reopen is a restart of the daemon.
func (f *fixture) reopen() {
	f.Helper()
	f.close()
	f.open()
}

// flush commits everything.
func (f *fixture) flush() {
	f.Helper()
	f.store.mu.Lock()
	for _, fn := range f.store.queue {
		f.store.Store.Later(fn)
	}
	f.store.queue, f.store.slow = nil, false
	f.store.mu.Unlock()
	if err := f.store.Flush(context.Background()); err != nil {
		f.Error(err)
	}
}

// ref makes a Ref of promised layers.
func (f *fixture) ref(layers ...string) *layeredRef {
	f.Helper()
	var list []snapshot.ImageLayer
	for _, l := range layers {
		d := digest.FromString(l)
		list = append(list, snapshot.ImageLayer{
			DiffID: d,
			Blob:   ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString(l + ".gz"), Size: 100},
			From:   []registry.Location{{Repo: "example.com/x"}},
		})
	}
	s, err := f.store.Image(f.Context(), list)
	if err != nil {
		f.Fatal(err)
	}
	return &layeredRef{s}
}

func id(s string) solver.ID { return sha256.Sum256([]byte(s)) }

// check gets name and compares the ID of what is there, "" for nothing.
func (f *fixture) check(name, want string, wantKnown bool) {
	f.Helper()
	ref, known, err := f.Get(f.Context(), id(name))
	if err != nil {
		f.Fatal(err)
	}
	got := ""
	if ref != nil {
		got = ref.ID()
		ref.Release()
	}
	if got != want || known != wantKnown || f.Known(id(name)) != wantKnown {
		f.Errorf("%s: got %.12q known %v (%v), want %.12q %v", name, got, known, f.Known(id(name)), want, wantKnown)
	}
}

func TestAnswers(t *testing.T) {
	for _, slow := range []bool{true, false} {
		t.Run(fmt.Sprint("slow=", slow), func(t *testing.T) {
			f := newFixture(t)
			f.store.slow = slow
			a, b := f.ref("1", "2"), f.ref("1", "3")
			idA, idB := a.ID(), b.ID()
			f.check("x", "", false)
			f.Put(id("x"), a)
			f.Put(id("replaced"), a)
			f.Put(id("replaced"), b)
			f.Put(id("scratch"), wrap(nil))
			f.Put(id("seen"), nil)
			f.Put(id("tree"), treeRef{})
			f.Put(id("x"), nil) // must not hide the answer
			f.Put(id("dropped"), a)
			f.Drop(id("dropped"), a)
			f.Drop(id("x"), b) // is not what x holds
			f.Drop(id("x"), treeRef{})
			all := func() {
				f.Helper()
				f.check("x", idA, true)
				f.check("replaced", idB, true)
				f.check("scratch", "scratch", true)
				f.check("seen", "", true)
				f.check("tree", "", true)
				f.check("dropped", "", true)
				f.check("never", "", false)
			}
			all()
			f.flush()
			all()
			for _, tb := range []*table{f.answers, f.known, f.sums} {
				if n := len(tb.pending); n != 0 {
					t.Errorf("%d rows of %s are in memory after they were committed", n, tb.name)
				}
			}
			a.Release()
			b.Release()
			f.reopen()
			all()
		})
	}
}

// An answer whose layers are gone is a miss, and is not asked for again.
func TestLostLayers(t *testing.T) {
	f := newFixture(t)
	a := f.ref("1")
	defer a.Release()
	f.Put(id("x"), a)
	f.store.lost = true
	f.check("x", "", true)
	f.store.lost = false
	f.check("x", "", true)

	f.Put(id("x"), a)
	f.store.lost = true
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := f.Get(ctx, id("x")); !errors.Is(err, context.Canceled) {
		t.Error("an interrupted look-up is not a miss:", err)
	}
	f.store.lost = false
	f.check("x", a.ID(), true)
}

func TestSums(t *testing.T) {
	f := newFixture(t)
	part, sum := solver.Part{1}, solver.Sum{2}
	if _, _, ok := f.Sum(id("x"), part); ok {
		t.Error("a sum out of nowhere")
	}
	for _, ref := range []string{"r1", ""} {
		f.PutSum(id("x"), part, sum, ref)
		for range 2 {
			got, from, ok := f.Sum(id("x"), part)
			if got != sum || from != ref || !ok {
				t.Error(got, from, ok)
			}
			if _, _, ok := f.Sum(id("x"), solver.Part{9}); ok {
				t.Error("another part has the same sum")
			}
			f.reopen()
		}
	}
}

func TestTrimAndVersions(t *testing.T) {
	f := newFixture(t)
	a := f.ref("1")
	defer func() { a.Release() }()
	f.Put(id("old"), a)
	f.Put(id("used"), a)
	f.Put(id("seen"), nil)
	f.PutSum(id("old"), solver.Part{}, solver.Sum{}, "r")
	f.flush()
	// Make everything look as if last used long ago.
	f.store.Store.Later(func(tx *bolt.Tx) error {
		for _, tb := range []*table{f.answers, f.known, f.sums} {
			b := tb.bucket(tx)
			c := b.Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				v = slices.Clone(v)
				copy(v, make([]byte, 8))
				if err := b.Put(k, v); err != nil {
					return err
				}
			}
		}
		return nil
	})
	f.flush()
	f.check("used", a.ID(), true) // which is written down
	if n := f.Trim(time.Now().Add(-time.Hour)); n < 3 {
		t.Errorf("trimmed %d rows", n)
	}
	f.flush()
	f.check("used", a.ID(), true)
	f.check("old", "", false)
	f.check("seen", "", false)
	if _, _, ok := f.Sum(id("old"), solver.Part{}); ok {
		t.Error("the sum is still there")
	}

	// What another version wrote is removed, and rows that make no sense are misses.
	f.store.Store.Later(func(tx *bolt.Tx) error {
		if _, err := tx.CreateBucket([]byte("cache/0")); err != nil {
			return err
		}
		b := f.answers.bucket(tx)
		bad := id("bad")
		if err := b.Put(bad[:], []byte("12345678{")); err != nil {
			return err
		}
		short := id("short")
		return b.Put(short[:], []byte("123"))
	})
	a.Release()
	f.reopen()
	a = f.ref("1")
	f.flush()
	if err := f.store.ViewDB(func(tx *bolt.Tx) error {
		if tx.Bucket([]byte("cache/0")) != nil {
			return errors.New("the old version is still there")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	f.check("bad", "", true)
	f.check("short", "", false)
	f.check("used", a.ID(), true)
}

func TestConcurrent(t *testing.T) {
	f := newFixture(t)
	a := f.ref("1", "2")
	defer a.Release()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 50 {
				n := fmt.Sprint(w, i)
				f.Put(id(n), a)
				f.Put(id(fmt.Sprint(i)), nil)
				f.check(n, a.ID(), true)
				f.PutSum(id(n), solver.Part{}, solver.Sum{1}, "r")
				if _, _, ok := f.Sum(id(n), solver.Part{}); !ok {
					t.Error("a sum was lost")
				}
				if i%10 == 0 {
					f.Trim(time.Now().Add(-time.Hour))
				}
			}
		})
	}
	wg.Wait()
}
