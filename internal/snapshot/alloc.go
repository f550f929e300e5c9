package snapshot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

const (
	// snapshotterName is what the metadata database calls the snapshotter.
	snapshotterName = "dbuild"
	// workLease protects whatever is being written and belongs to no row yet. What is
	// still in it when the store is opened again was left by a crash.
	workLease = "work"

	poolMin = 8  // slots prepared at a time
	poolMax = 64 // most of them
)

// An allocator hands out directories. Each is a containerd snapshot without parent, held
// by a lease: workLease until a row names it, then a lease named like the row. Snapshots
// stay active for ever: committing one would walk its files and write two databases more,
// and say nothing that the row does not say.
//
// Empty slots are prepared in advance, many in one transaction, so that starting a draft
// needs no database write.
type allocator struct {
	s     *Store
	inner *driver
	outer snapshots.Snapshotter // inner seen through the metadata database

	// snapMu serialises transactions that span both databases, and collection: containerd
	// takes its locks in the other order there.
	snapMu sync.Mutex

	ready chan *slot
	want  chan struct{} // somebody found ready empty
	mu    sync.Mutex
	batch int
	err   error // of the last refill
	fail  chan struct{}
}

func newAllocator(s *Store) (*allocator, error) {
	d, err := newDriver(filepath.Join(s.root, "snapshots"))
	if err != nil {
		return nil, fmt.Errorf("open snapshots: %w", err)
	}
	return &allocator{
		s:     s,
		inner: d,
		ready: make(chan *slot, poolMax),
		want:  make(chan struct{}, 1),
		fail:  make(chan struct{}),
		batch: poolMin,
	}, nil
}

// path is the directory of a slot.
func (a *allocator) path(sl *slot) string { return filepath.Join(a.inner.dir, sl.Num) }

// take returns an empty slot.
func (a *allocator) take(ctx context.Context) (*slot, error) {
	select {
	case sl := <-a.ready:
		if len(a.ready) < poolMin/2 {
			a.nudge()
		}
		return sl, nil
	default:
	}
	a.mu.Lock()
	a.batch = min(a.batch*2, poolMax)
	fail := a.fail
	a.mu.Unlock()
	a.nudge()
	select {
	case sl := <-a.ready:
		return sl, nil
	case <-fail:
		a.mu.Lock()
		defer a.mu.Unlock()
		return nil, fmt.Errorf("prepare a snapshot: %w", a.err)
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-a.s.life.Done():
		return nil, errClosed
	}
}

func (a *allocator) nudge() {
	select {
	case a.want <- struct{}{}:
	default:
	}
}

func (a *allocator) loop() {
	for {
		a.mu.Lock()
		n := a.batch
		a.mu.Unlock()
		if missing := n - len(a.ready); missing > 0 {
			slots, err := a.prepare(missing)
			if err != nil {
				a.mu.Lock()
				a.err = err
				close(a.fail) // everybody who waits now; later ones try again
				a.fail = make(chan struct{})
				a.mu.Unlock()
			}
			for _, sl := range slots {
				a.ready <- sl // fits: only this goroutine sends, and missing <= poolMax - len
			}
		}
		select {
		case <-a.want:
		case <-a.s.life.Done():
			return
		}
	}
}

// prepare makes n slots under workLease.
func (a *allocator) prepare(n int) ([]*slot, error) {
	a.snapMu.Lock()
	defer a.snapMu.Unlock()
	var slots []*slot
	ctx := leases.WithLease(a.s.ctx(context.Background()), workLease)
	err := a.s.mdb.Update(func(tx *bolt.Tx) error {
		return a.inner.ms.batch(boltutil.WithTransaction(ctx, tx), func(ctx context.Context) error {
			slots = slots[:0]
			for range n {
				sl := &slot{Key: newID()}
				if _, err := a.outer.Prepare(context.WithValue(ctx, slotKey{}, sl), sl.Key, ""); err != nil {
					return err
				}
				slots = append(slots, sl)
			}
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return slots, nil
}

// discard removes slots that no row names, with their files.
func (a *allocator) discard(slots ...*slot) error {
	ctx := a.s.ctx(context.Background())
	if err := a.freeing(slots, func() error {
		return a.s.mdb.Update(func(tx *bolt.Tx) error {
			return a.unname(ctx, tx, workLease, slots...)
		})
	}); err != nil {
		return err
	}
	return a.remove(slots)
}

// freeing calls write, which takes slots out of a database. If the disk is too full for
// that, the files of the slots, which nobody has a use for any more, make room.
func (a *allocator) freeing(slots []*slot, write func() error) error {
	err := write()
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	if err := removeAll(a.paths(slots)); err != nil {
		return err
	}
	return write()
}

func (a *allocator) paths(slots []*slot) []string {
	paths := make([]string, len(slots))
	for i, sl := range slots {
		paths[i] = a.path(sl)
	}
	return paths
}

// unname takes slots out of the metadata database and of a lease.
func (a *allocator) unname(ctx context.Context, tx *bolt.Tx, lease string, slots ...*slot) error {
	ctx = boltutil.WithTransaction(ctx, tx)
	if lease != "" {
		ctx = leases.WithLease(ctx, lease)
	}
	for _, sl := range slots {
		if err := a.outer.Remove(ctx, sl.Key); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// remove deletes slots that unname has dealt with: first the snapshotter's rows, then the
// directories. If it is interrupted, the next Open does the rest.
func (a *allocator) remove(slots []*slot) error {
	if len(slots) == 0 {
		return nil
	}
	err := a.freeing(slots, func() error {
		a.snapMu.Lock()
		defer a.snapMu.Unlock()
		return a.inner.ms.batch(context.Background(), func(ctx context.Context) error {
			for _, sl := range slots {
				if err := a.inner.Remove(ctx, sl.Inner); err != nil && !errdefs.IsNotFound(err) {
					return err
				}
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("remove snapshots: %w", err)
	}
	return removeAll(a.paths(slots))
}

// collect runs containerd's mark and sweep.
func (a *allocator) collect(ctx context.Context) error {
	a.snapMu.Lock()
	defer a.snapMu.Unlock()
	_, err := a.s.mdb.GarbageCollect(ctx)
	return err
}

// removeAll removes trees, some at a time: it is waiting for the disk mostly.
func removeAll(paths []string) error {
	var g errgroup.Group
	g.SetLimit(4)
	for _, p := range paths {
		g.Go(func() error { return os.RemoveAll(p) })
	}
	return g.Wait()
}

// newID returns 25 random characters of base 36.
func newID() string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	var id [25]byte
	var buf [40]byte
	for n := 0; n < len(id); {
		rand.Read(buf[:])
		for _, b := range buf {
			// 252 is the largest multiple of 36 in a byte; above it digits would be skewed.
			if b < 252 && n < len(id) {
				id[n] = digits[b%36]
				n++
			}
		}
	}
	return string(id[:])
}
