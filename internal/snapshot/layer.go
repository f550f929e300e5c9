package snapshot

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/progress"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// A layer is one difference: files, blobs, or a promise. See the package comment.
type layer struct {
	s    *Store
	id   string
	uses int         // refs that hold it; under Store.mu
	gone atomic.Bool // pruned; set under Store.mu

	mu      sync.Mutex // guards what follows; never held across I/O or a transaction
	row     layerRow
	dir     string // of the files, or ""
	pending bool   // the row is not in the database yet
	leased  bool   // the lease of this name exists
	moves   []leases.Resource
	open    map[digest.Digest]openFunc
	work    *progress.Log // of fetching it, while somebody waits for that
	viewers int           // who wait

	files conversion[struct{}, string]
	blobs conversion[variant, blobRow]
	fix   sync.Mutex // held while implicit directories get their attributes
}

type openFunc func(context.Context, bksession.Group) (io.ReadCloser, error)

// A usage counts uses of a row that are not in the database yet.
type usage struct {
	last time.Time
	n    int
}

// newLayer registers a layer that has no row yet. The caller holds s.mu.
func (s *Store) newLayer(id string, row layerRow) *layer {
	l := &layer{s: s, id: id, row: row, pending: true}
	if row.Slot != nil {
		l.dir = s.alloc.path(row.Slot)
	}
	s.layers[id] = l
	if row.DiffID != "" {
		s.byDiff[row.DiffID] = id
	}
	s.dropUnused()
	return l
}

// acquire returns the layers with these ids, each held once more, or ErrNotFound.
func (s *Store) acquire(ids []string) ([]*layer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acquireLocked(ids)
}

func (s *Store) acquireLocked(ids []string) ([]*layer, error) {
	list := make([]*layer, len(ids))
	var missing []int
	for i, id := range ids {
		if l := s.layers[id]; l != nil {
			list[i] = l
		} else {
			missing = append(missing, i)
		}
	}
	if len(missing) > 0 {
		if err := s.db.View(func(tx *bolt.Tx) error {
			rows := bucket(tx, bucketLayers)
			for _, i := range missing {
				if list[i] = s.layers[ids[i]]; list[i] != nil {
					continue // named twice
				}
				var row layerRow
				if s.dying[ids[i]] || !getRow(rows, ids[i], &row) {
					return fmt.Errorf("layer %s: %w", short(ids[i]), errdefs.ErrNotFound)
				}
				l := &layer{s: s, id: ids[i], row: row}
				if row.Slot != nil {
					l.leased = true
					// A row without its files is a miss, not a failed build.
					if dir := s.alloc.path(row.Slot); isDir(dir) {
						l.dir = dir
					}
				}
				for _, b := range row.Blobs {
					l.leased = l.leased || b.Local
				}
				if l.dir == "" && len(row.Blobs) == 0 {
					return fmt.Errorf("layer %s has lost its files: %w", short(ids[i]), errdefs.ErrNotFound)
				}
				list[i] = l
				s.layers[ids[i]] = l
			}
			return nil
		}); err != nil {
			return nil, err
		}
		s.dropUnused()
	}
	for _, l := range list {
		l.uses++
	}
	return list, nil
}

// dropUnused bounds the memory that idle layers take. The caller holds s.mu.
func (s *Store) dropUnused() {
	if len(s.layers) < s.sweep {
		return
	}
	for id, l := range s.layers {
		if l.uses > 0 {
			continue
		}
		l.mu.Lock()
		idle := !l.pending
		l.mu.Unlock()
		if idle {
			delete(s.layers, id)
		}
	}
	s.sweep = max(4096, 2*len(s.layers))
}

func (s *Store) hold(layers []*layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range layers {
		l.uses++
	}
}

func (s *Store) unhold(layers []*layer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range layers {
		l.uses--
	}
}

// touch notes that layers were used now; the rows learn it with the next commit.
func (s *Store) touch(layers []*layer) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range layers {
		u := s.used[l.id]
		s.used[l.id] = usage{now, u.n + 1}
	}
}

func (s *Store) hasUses() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.used) > 0
}

func (s *Store) takeUses() map[string]usage {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.used) == 0 {
		return nil
	}
	u := s.used
	s.used = map[string]usage{}
	return u
}

func (s *Store) writeUses(tx *bolt.Tx, uses map[string]usage) error {
	rows := bucket(tx, bucketLayers)
	for _, id := range slices.Sorted(maps.Keys(uses)) {
		var row layerRow
		if !getRow(rows, id, &row) {
			continue
		}
		row.LastUsed = uses[id].last
		row.UsageCount += uses[id].n
		if err := putRow(rows, id, &row); err != nil {
			return err
		}
	}
	return nil
}

// persist queues the row as it will be when the group is written. sync says that files
// were added; prepare runs before.
func (l *layer) persist(sync bool, prepare func()) {
	moved := 0
	l.s.commit.add(&change{
		sync:    sync,
		prepare: prepare,
		apply: func(tx *bolt.Tx) error {
			if l.gone.Load() {
				return nil
			}
			l.mu.Lock()
			row := l.row
			row.Parents = slices.Clone(row.Parents)
			row.Blobs = slices.Clone(row.Blobs)
			moves := slices.Clone(l.moves)
			l.mu.Unlock()
			if err := l.s.moveToLease(tx, l.id, moves); err != nil {
				return err
			}
			moved = len(moves)
			rows := bucket(tx, bucketLayers)
			var old layerRow
			if getRow(rows, l.id, &old) {
				row.LastUsed, row.UsageCount = old.LastUsed, old.UsageCount // kept by writeUses
			}
			if err := putRow(rows, l.id, &row); err != nil {
				return err
			}
			return enterIndex(tx, l.id, &row)
		},
		done: func(err error) {
			if err != nil {
				return
			}
			l.s.mu.Lock()
			defer l.s.mu.Unlock()
			l.mu.Lock()
			defer l.mu.Unlock()
			l.moves = slices.Delete(l.moves, 0, min(moved, len(l.moves)))
			l.leased = l.leased || moved > 0
			l.pending = false
			for _, name := range l.row.indexNames() {
				if l.s.byDiff[name] == l.id {
					delete(l.s.byDiff, name)
				}
			}
		},
	}, false)
}

// moveToLease gives resources of workLease to the lease of a row.
func (s *Store) moveToLease(tx *bolt.Tx, id string, moves []leases.Resource) error {
	if len(moves) == 0 {
		return nil
	}
	ctx := boltutil.WithTransaction(s.ctx(context.Background()), tx)
	if _, err := s.leases.Create(ctx, leases.WithID(id)); err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	for _, r := range moves {
		if err := s.leases.AddResource(ctx, leases.Lease{ID: id}, r); err != nil {
			return err
		}
		if err := s.leases.DeleteResource(ctx, leases.Lease{ID: workLease}, r); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// ensureLease makes the layer's lease, so that blobs can be written under it.
func (l *layer) ensureLease() error {
	l.mu.Lock()
	leased := l.leased
	l.mu.Unlock()
	if leased {
		return nil
	}
	_, err := l.s.leases.Create(l.s.ctx(context.Background()), leases.WithID(l.id))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return err
	}
	l.mu.Lock()
	l.leased = true
	l.mu.Unlock()
	return nil
}

func snapshotResource(sl *slot) leases.Resource {
	return leases.Resource{ID: sl.Key, Type: "snapshots/" + snapshotterName}
}

// setFiles says that the layer's files are in sl. The caller persists.
func (l *layer) setFiles(sl *slot) string {
	dir := l.s.alloc.path(sl)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.row.Slot = sl
	l.dir = dir
	l.moves = append(l.moves, snapshotResource(sl))
	return dir
}

// here returns the directory of the files, or "".
func (l *layer) here() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dir
}

func isDir(path string) bool {
	fi, err := os.Lstat(path)
	return err == nil && fi.IsDir()
}
