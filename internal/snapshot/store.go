package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/gofrs/flock"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	errbolt "go.etcd.io/bbolt/errors"
	"golang.org/x/sync/semaphore"
)

// Config says where a Store lives and what it may use.
type Config struct {
	Root string // state directory; required
	// Snapshotter is "overlay", "native" (full copies, for kernels without overlayfs), or
	// "" for overlay if it works here. Layers are kept in the same form either way.
	Snapshotter string
	// Fetch opens a blob at one of the places that hold it. Callers verify the digest.
	Fetch func(ctx context.Context, g bksession.Group, from []registry.Location, d ocispec.Descriptor) (io.ReadCloser, error)
}

// Access is on whose behalf remote bytes are read, and where to show it.
type Access struct {
	Group bksession.Group
	Log   *progress.Log // may be nil
}

// Desc describes a record for people.
type Desc struct {
	Description string
	Type        string // a Type constant; "" is TypeRegular
}

// Record types, as BuildKit's clients know them.
const (
	TypeRegular     = "regular"
	TypeInternal    = "internal"
	TypeFrontend    = "frontend"
	TypeLocal       = "source.local"
	TypeGitCheckout = "source.git.checkout"
	TypeCacheMount  = "exec.cachemount"
	TypeImage       = "image" // a name in the image store; ours
)

const namespace = "dbuild" // in containerd's metadata

// A Store keeps layers, blobs, mutable directories and image names in one directory. One
// process at a time may have it open.
type Store struct {
	root  string
	work  string // for mount points, overlay work directories; wiped at Open
	fetch func(context.Context, bksession.Group, []registry.Location, ocispec.Descriptor) (io.ReadCloser, error)
	lock  *flock.Flock
	sync  *os.File // the root, to call syncfs on

	db     *bolt.DB
	mdb    *metadata.DB
	leases leases.Manager
	cs     content.Store
	alloc  *allocator
	mnt    mounter
	commit *committer

	life    context.Context // ends at Close; background work descends from it
	stop    context.CancelFunc
	bg      sync.WaitGroup // background work
	closing atomic.Bool

	unpackSem   *semaphore.Weighted
	compressSem *semaphore.Weighted
	warmSem     *semaphore.Weighted
	pruneMu     sync.Mutex
	workSeq     atomic.Uint64

	apartMu sync.Mutex      // guards apart, and is held while layers are set apart
	apart   map[string]bool // stacks of directories that have no file in common

	mu     sync.Mutex // guards the maps, layer.uses and layer.gone
	layers map[string]*layer
	byDiff map[digest.Digest]string // of layers whose row is not committed yet
	sweep  int                      // size of layers at which unused ones are dropped
	dying  map[string]bool          // rows being pruned
	used   map[string]usage         // not yet in the rows
	dirs   map[string]*dirState
	shown  map[digest.Digest][]*progress.Log // where fetching a layer is shown, by diff ID
	found  map[digest.Digest][]*progress.Log // where it is shown if it is of no image that is named
}

// Open opens the store in cfg.Root, making it if needed, and sweeps what a crash left.
func Open(ctx context.Context, cfg Config) (_ *Store, err error) {
	if cfg.Root == "" {
		return nil, fmt.Errorf("no state directory given: %w", errdefs.ErrInvalidArgument)
	}
	root, err := filepath.Abs(cfg.Root)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := os.Chmod(root, 0o700); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	// Mount tables and lowerdir= hold real paths.
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return nil, err
	}

	n := int64(runtime.GOMAXPROCS(0))
	s := &Store{
		root:  root,
		work:  filepath.Join(root, "work"),
		fetch: cfg.Fetch,
		lock:  flock.New(filepath.Join(root, "lock")),
		// Unpacking waits for the network as much as for the CPU.
		unpackSem:   semaphore.NewWeighted(max(4, n)),
		compressSem: semaphore.NewWeighted(n),
		warmSem:     semaphore.NewWeighted(max(1, n/2)),
		layers:      map[string]*layer{},
		byDiff:      map[digest.Digest]string{},
		shown:       map[digest.Digest][]*progress.Log{},
		found:       map[digest.Digest][]*progress.Log{},
		sweep:       4096,
		used:        map[string]usage{},
		dirs:        map[string]*dirState{},
		dying:       map[string]bool{},
	}
	s.life, s.stop = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			_ = s.release() // the first error is what matters
		}
	}()

	locked, err := s.lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if !locked {
		return nil, fmt.Errorf("the state directory %s is in use by another daemon: %w", root, errdefs.ErrUnavailable)
	}
	if s.sync, err = os.Open(root); err != nil {
		return nil, err
	}
	if err := wipeWork(s.work); err != nil {
		return nil, err
	}
	s.useReserve()
	if err := s.openDB(ctx); err != nil {
		return nil, err
	}
	if s.mnt, err = chooseMounter(s, cfg.Snapshotter); err != nil {
		return nil, err
	}
	if err := s.sweepOrphans(ctx); err != nil {
		return nil, err
	}
	s.keepReserve()
	s.commit = newCommitter(s)
	s.bg.Go(s.commit.loop)
	s.bg.Go(s.alloc.loop)
	return s, nil
}

func (s *Store) openDB(ctx context.Context) error {
	var err error
	s.db, err = bolt.Open(filepath.Join(s.root, "dbuild.db"), 0o600, &bolt.Options{
		Timeout:        5 * time.Second,
		NoFreelistSync: true,
		FreelistType:   bolt.FreelistMapType,
	})
	if errors.Is(err, errbolt.ErrTimeout) {
		return fmt.Errorf("the state database in %s is in use by another process: %w", s.root, errdefs.ErrUnavailable)
	}
	if err != nil {
		return fmt.Errorf("open state database: %w", err)
	}
	// A newer schema is refused before anything is written.
	current := false
	if err := s.db.View(func(tx *bolt.Tx) (err error) {
		current, err = checkSchema(tx)
		return err
	}); err != nil {
		return err
	}
	if !current {
		if err := s.db.Update(initSchema); err != nil {
			return err
		}
	}
	// Nothing resumes an interrupted write, and containerd cannot abort all of them.
	if err := os.RemoveAll(filepath.Join(s.root, "content", "ingest")); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	blobs, err := local.NewStore(filepath.Join(s.root, "content"))
	if err != nil {
		return fmt.Errorf("open content store: %w", err)
	}
	if s.alloc, err = newAllocator(s); err != nil {
		return err
	}
	s.mdb = metadata.NewDB(s.db, blobs, map[string]snapshots.Snapshotter{snapshotterName: s.alloc.inner})
	if err := s.mdb.Init(ctx); err != nil {
		return fmt.Errorf("open state database: %w", err)
	}
	s.leases = metadata.NewLeaseManager(s.mdb)
	s.alloc.outer = s.mdb.Snapshotter(snapshotterName)
	s.cs = s.mdb.ContentStore()
	return nil
}

// Close waits for background work, makes everything durable and gives the directory up.
// Drafts that were not committed are lost.
func (s *Store) Close() error {
	s.mu.Lock()
	closed := s.closing.Swap(true)
	s.mu.Unlock()
	if closed {
		return nil
	}
	s.stop() // the committer writes what it has
	s.bg.Wait()
	return errors.Join(s.commit.takeLost(), s.release())
}

func (s *Store) release() error {
	s.stop()
	var errs []error
	if s.alloc != nil && s.alloc.inner != nil {
		errs = append(errs, s.alloc.inner.Close())
	}
	if s.db != nil {
		errs = append(errs, s.db.Close())
	}
	if s.sync != nil {
		errs = append(errs, s.sync.Close())
	}
	// The lock file stays: removing it would let two daemons lock different files.
	errs = append(errs, s.lock.Close())
	return errors.Join(errs...)
}

// ctx is ctx with containerd's namespace.
func (s *Store) ctx(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, namespace)
}

// ViewDB reads the database. Rows written with Later are visible only once committed.
func (s *Store) ViewDB(fn func(*bolt.Tx) error) error { return s.db.View(fn) }

// Content is the store of blobs (containerd metadata, so leases apply). What is written
// through it without a lease in the context is kept until the store is closed.
func (s *Store) Content() content.Store { return scopedContent{s.cs, s} }

// scopedContent supplies namespace and lease where the caller's context has none.
type scopedContent struct {
	content.Store
	s *Store
}

func (c scopedContent) ctx(ctx context.Context) context.Context {
	ctx = c.s.ctx(ctx)
	if _, ok := leases.FromContext(ctx); !ok {
		ctx = leases.WithLease(ctx, workLease)
	}
	return ctx
}

func (c scopedContent) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	return c.Store.Info(c.ctx(ctx), d)
}

func (c scopedContent) Update(ctx context.Context, i content.Info, f ...string) (content.Info, error) {
	return c.Store.Update(c.ctx(ctx), i, f...)
}

func (c scopedContent) Walk(ctx context.Context, fn content.WalkFunc, f ...string) error {
	return c.Store.Walk(c.ctx(ctx), fn, f...)
}

func (c scopedContent) Delete(ctx context.Context, d digest.Digest) error {
	return c.Store.Delete(c.ctx(ctx), d)
}

func (c scopedContent) Status(ctx context.Context, ref string) (content.Status, error) {
	return c.Store.Status(c.ctx(ctx), ref)
}

func (c scopedContent) ListStatuses(ctx context.Context, f ...string) ([]content.Status, error) {
	return c.Store.ListStatuses(c.ctx(ctx), f...)
}

func (c scopedContent) Abort(ctx context.Context, ref string) error {
	return c.Store.Abort(c.ctx(ctx), ref)
}

func (c scopedContent) ReaderAt(ctx context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	return c.Store.ReaderAt(c.ctx(ctx), d)
}

func (c scopedContent) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := c.Store.Writer(c.ctx(ctx), opts...)
	if err != nil {
		return nil, err
	}
	return scopedWriter{w, c}, nil
}

type scopedWriter struct {
	content.Writer
	c scopedContent
}

func (w scopedWriter) Commit(ctx context.Context, size int64, d digest.Digest, opts ...content.Opt) error {
	return w.Writer.Commit(w.c.ctx(ctx), size, d, opts...)
}
