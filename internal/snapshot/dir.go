package snapshot

import (
	"bytes"
	"context"
	"maps"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	bolt "go.etcd.io/bbolt"
)

// Sharing says what happens when a Dir is wanted twice at once.
type Sharing int

const (
	Shared  Sharing = iota // both use it
	Locked                 // the second waits
	Private                // the second gets another directory
)

// A Dir is an open mutable directory.
type Dir struct {
	Path  string // usable until Close
	Fresh bool   // just made

	s    *Store
	st   *dirState
	once sync.Once
	err  error
}

// A dirState is a mutable directory that was open since the Store was. Its row is the
// truth; the database follows.
type dirState struct {
	name    string
	users   int           // under Store.mu
	sharing Sharing       // of the users; under Store.mu
	seeding bool          // the one user fills it, see SeedDir; under Store.mu
	freed   chan struct{} // closed when users falls to 0; under Store.mu
	ready   chan struct{} // closed when opening has ended; under Store.mu
	failed  bool          // valid once ready is closed

	// Set by whoever opens it, before ready is closed.
	path    string
	unmount func() error
	base    *Ref

	mu    sync.Mutex
	row   dirRow
	moves []leases.Resource
}

// OpenDir opens the mutable directory named by kind (a Type constant) and key, making
// it if needed. With base, the directory starts with base's content beneath it.
//
// Shared joins others that share; anybody else waits until the directory is free, or,
// if Private, takes the first free one of a series.
func (s *Store) OpenDir(ctx context.Context, key string, d Desc, sharing Sharing, base *Ref, a Access) (*Dir, error) {
	if d.Type == "" {
		d.Type = TypeRegular
	}
	if base != nil && len(base.layers) == 0 {
		base = nil
	}
	series := dirSeries(key, d.Type, base)
	name := series
	for n := 1; ; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.mu.Lock()
		if s.closing.Load() {
			s.mu.Unlock()
			return nil, errClosed
		}
		st := s.dirStateLocked(name)
		if st.users == 0 {
			dying := s.claimLocked(st, sharing)
			s.mu.Unlock()
			fresh, err := s.openDir(ctx, st, d, base, a, dying)
			st.failed = err != nil
			close(st.ready)
			dir := &Dir{Path: st.path, Fresh: fresh, s: s, st: st}
			if err != nil {
				dir.Close()
				return nil, err
			}
			return dir, nil
		}
		freed, ready := st.freed, st.ready
		switch {
		case sharing == Private:
			s.mu.Unlock()
			name = series + "\x00#" + strconv.Itoa(n)
			n++
			continue
		case sharing == Shared && st.sharing == Shared:
			st.users++
			s.mu.Unlock()
			dir := &Dir{s: s, st: st}
			select {
			case <-ready:
			case <-ctx.Done():
				dir.Close()
				return nil, ctx.Err()
			}
			if st.failed {
				dir.Close()
				select { // for the others to leave, too
				case <-freed:
				case <-ctx.Done():
				}
				continue
			}
			dir.Path = st.path
			st.noteUse(time.Now())
			s.persistDir(st, false)
			return dir, nil
		}
		s.mu.Unlock()
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// dirSeries is the name of a directory, and how those begin that stand in for it.
func dirSeries(key, typ string, base *Ref) string {
	name := typ + "\x00" + key
	if base != nil && len(base.layers) > 0 {
		name += "\x00" + base.ID()
	}
	return name
}

// DropDir removes the directory of that type and key, unless it is in use, so that the
// next to open it starts anew.
func (s *Store) DropDir(ctx context.Context, key, typ string, base *Ref) error {
	if err := s.commit.settle(ctx); err != nil {
		return err
	}
	var row dirRow
	known := false
	if err := s.db.View(func(tx *bolt.Tx) error {
		known = getRow(bucket(tx, bucketDirs), dirSeries(key, typ, base), &row)
		return nil
	}); err != nil || !known {
		return err
	}
	return s.Prune(ctx, PruneOptions{Filters: []string{"id==" + row.ID}}, func(Record) {})
}

// dirStateLocked returns the state of a directory; the caller holds s.mu.
func (s *Store) dirStateLocked(name string) *dirState {
	st := s.dirs[name]
	if st == nil {
		st = &dirState{name: name}
		s.dirs[name] = st
	}
	return st
}

// claimLocked makes the caller, who holds s.mu, the first user of a directory that nobody
// uses. dying says that its row is being removed.
func (s *Store) claimLocked(st *dirState, sharing Sharing) (dying bool) {
	st.users, st.sharing = 1, sharing
	st.freed, st.ready = make(chan struct{}), make(chan struct{})
	return s.dying["dir "+st.name]
}

// loadDir reads the row of st, which the caller alone uses, and says whether there is a
// directory.
func (s *Store) loadDir(st *dirState, dying bool) (known bool, err error) {
	st.mu.Lock()
	known = st.row.Slot != nil
	st.mu.Unlock()
	if known || dying {
		return known, nil
	}
	var row dirRow
	if err := s.db.View(func(tx *bolt.Tx) error {
		known = getRow(bucket(tx, bucketDirs), st.name, &row) && row.Slot != nil && isDir(s.alloc.path(row.Slot))
		return nil
	}); err != nil {
		return false, err
	}
	if known {
		st.mu.Lock()
		st.row = row
		st.mu.Unlock()
	}
	return known, nil
}

// noteUse takes note that somebody may write to the directory from now on.
func (st *dirState) noteUse(now time.Time) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.row.LastUsed, st.row.Size = now, -1
	st.row.UsageCount++
}

// openDir readies the directory of st, which the caller alone uses.
func (s *Store) openDir(ctx context.Context, st *dirState, d Desc, base *Ref, a Access, dying bool) (fresh bool, err error) {
	known, err := s.loadDir(st, dying)
	if err != nil {
		return false, err
	}
	now := time.Now()
	if !known {
		sl, err := s.alloc.take(ctx)
		if err != nil {
			return false, err
		}
		row := dirRow{ID: newID(), Created: now, Description: d.Description, Type: d.Type, Slot: sl}
		if base != nil {
			row.Base = base.LayerIDs()
		}
		st.mu.Lock()
		st.row, st.moves = row, []leases.Resource{snapshotResource(sl)}
		st.mu.Unlock()
	}
	st.noteUse(now)
	st.mu.Lock()
	slot := st.row.Slot
	st.mu.Unlock()
	s.persistDir(st, false)
	st.path, st.unmount, st.base = s.alloc.path(slot), nil, nil
	if base == nil {
		return !known, nil
	}
	v, err := base.View(ctx, a)
	if err != nil {
		return false, err
	}
	if !known {
		if err := copyRootAttributes(v.roots[0], st.path); err != nil {
			return false, err
		}
	}
	if st.path, st.unmount, err = s.mnt.draft(ctx, v, st.path); err != nil {
		return false, err
	}
	st.base = base.Retain()
	return !known, nil
}

// Close gives the directory back. Calling it again does nothing.
func (d *Dir) Close() error {
	d.once.Do(func() {
		s, st := d.s, d.st
		s.mu.Lock()
		if st.users > 1 {
			st.users--
			s.mu.Unlock()
			return
		}
		// The last one. users stays 1 until the mount is gone, so that nobody comes between.
		st.sharing = Locked // nobody joins any more
		s.mu.Unlock()
		if st.unmount != nil {
			d.err = st.unmount()
			st.unmount = nil
		}
		if st.base != nil {
			st.base.Release()
			st.base = nil
		}
		s.mu.Lock()
		st.users, st.seeding = 0, false
		close(st.freed)
		s.mu.Unlock()
	})
	return d.err
}

// Meta and SetMeta keep a small value beside the directory (an index, a remote's URL).
// The caller must not change it.
func (d *Dir) Meta(name string) []byte {
	d.st.mu.Lock()
	defer d.st.mu.Unlock()
	return d.st.row.Meta[name]
}

// SetMeta sets a value, or removes it if value is nil. It becomes durable after what was
// written into the directory before the call.
func (d *Dir) SetMeta(name string, value []byte) {
	d.st.mu.Lock()
	old, had := d.st.row.Meta[name]
	if had == (value != nil) && bytes.Equal(old, value) {
		d.st.mu.Unlock()
		return
	}
	// The map may be being encoded.
	meta := maps.Clone(d.st.row.Meta)
	if value == nil {
		delete(meta, name)
	} else {
		if meta == nil {
			meta = map[string][]byte{}
		}
		meta[name] = bytes.Clone(value)
	}
	d.st.row.Meta = meta
	d.st.mu.Unlock()
	d.s.persistDir(d.st, true)
}

func (s *Store) persistDir(st *dirState, sync bool) {
	moved := 0
	st.mu.Lock()
	id := st.row.ID
	st.mu.Unlock()
	s.commit.add(&change{
		sync: sync,
		apply: func(tx *bolt.Tx) error {
			st.mu.Lock()
			row, moves := st.row, st.moves
			st.mu.Unlock()
			if row.ID != id || row.Slot == nil {
				return nil // pruned meanwhile
			}
			if err := s.moveToLease(tx, row.ID, moves); err != nil {
				return err
			}
			moved = len(moves)
			return putRow(bucket(tx, bucketDirs), st.name, &row)
		},
		done: func(err error) {
			if err != nil {
				return
			}
			st.mu.Lock()
			st.moves = st.moves[min(moved, len(st.moves)):]
			st.mu.Unlock()
		},
	}, false)
}

// forget empties the state of a directory whose row is being removed.
func (st *dirState) forget() {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.row, st.moves = dirRow{}, nil
}
