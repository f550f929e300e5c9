package bolt

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
)

// A Store is what a Cache needs of a *snapshot.Store.
type Store interface {
	ViewDB(func(*bolt.Tx) error) error
	Later(func(*bolt.Tx) error)
	LoadAs(ctx context.Context, layers []string, preferred []digest.Digest) (*snapshot.Ref, error)
}

var _ Store = (*snapshot.Store)(nil)

// Layered is a Ref that can be remembered: one that consists of layers. A nil Snapshot
// is an empty filesystem. Of other refs a Cache remembers only that they were seen.
type Layered interface {
	solver.Ref
	Snapshot() *snapshot.Ref
}

// touchAfter is how stale the time of last use may be. Writing it on each use would
// make every cached build write.
const touchAfter = 24 * time.Hour

// maxSeen bounds the memory of what is known to be known.
const maxSeen = 1 << 17

// A Cache is a solver.Cache in the database of a snapshot store. What it returns after a
// restart is what was committed before.
type Cache struct {
	store                Store
	wrap                 func(*snapshot.Ref) solver.Ref
	answers, known, sums *table

	mu   sync.Mutex
	seen map[solver.ID]bool // certainly in answers or known; need not be written again
}

var (
	_ solver.Cache  = (*Cache)(nil)
	_ solver.Knower = (*Cache)(nil)
)

// An answer is a row of answers.
type answer struct {
	Layers  []string  `json:"layers"` // empty for an empty filesystem
	Created time.Time `json:"created"`
	// Preferred are the blobs of layers that came from an image, by the layer: without
	// them, what is found would be exported in another form than what was made.
	Preferred []digest.Digest `json:"preferred,omitempty"`
}

// New returns the Cache kept in store. wrap makes the worker's kind of Ref of layers,
// and takes them over; it is given nil for an empty filesystem.
func New(store Store, wrap func(*snapshot.Ref) solver.Ref) (*Cache, error) {
	var old [][]byte
	if err := store.ViewDB(func(tx *bolt.Tx) error {
		return tx.ForEach(func(name []byte, _ *bolt.Bucket) error {
			if bytes.HasPrefix(name, rootPrefix) && !bytes.Equal(name, root) {
				old = append(old, bytes.Clone(name))
			}
			return nil
		})
	}); err != nil {
		return nil, fmt.Errorf("open the cache: %w", err)
	}
	for _, name := range old {
		store.Later(func(tx *bolt.Tx) error {
			if tx.Bucket(name) == nil {
				return nil
			}
			return tx.DeleteBucket(name)
		})
	}
	return &Cache{
		store:   store,
		wrap:    wrap,
		answers: newTable(store, "answers"),
		known:   newTable(store, "known"),
		sums:    newTable(store, "sums"),
		seen:    make(map[solver.ID]bool),
	}, nil
}

// Get implements solver.Cache. An answer whose layers are gone is a miss, and dropped.
func (c *Cache) Get(ctx context.Context, id solver.ID) (solver.Ref, bool, error) {
	row, used, ok := c.answer(id)
	if !ok {
		return nil, c.isKnown(id), nil
	}
	ref, err := c.load(ctx, row)
	if err != nil {
		if ctx.Err() != nil {
			return nil, true, context.Cause(ctx)
		}
		c.drop(id)
		return nil, true, nil
	}
	c.remember(id)
	if time.Since(used) > touchAfter {
		c.write(id, row)
	}
	return ref, true, nil
}

func (c *Cache) load(ctx context.Context, row answer) (solver.Ref, error) {
	if len(row.Layers) == 0 {
		return c.wrap(nil), nil
	}
	s, err := c.store.LoadAs(ctx, row.Layers, row.Preferred)
	if err != nil {
		return nil, err
	}
	return c.wrap(s), nil
}

// Put implements solver.Cache.
func (c *Cache) Put(id solver.ID, ref solver.Ref) {
	layers, preferred, ok := layersOf(ref)
	if !ok {
		c.see(id)
		return
	}
	if row, used, ok := c.answer(id); ok && slices.Equal(row.Layers, layers) && slices.Equal(row.Preferred, preferred) && time.Since(used) <= touchAfter {
		return
	}
	c.write(id, answer{Layers: layers, Created: time.Now(), Preferred: preferred})
	c.remember(id)
}

// Drop implements solver.Cache.
func (c *Cache) Drop(id solver.ID, ref solver.Ref) {
	layers, _, ok := layersOf(ref)
	if !ok {
		return
	}
	if row, _, ok := c.answer(id); ok && slices.Equal(row.Layers, layers) {
		c.drop(id)
	}
}

// Known reports whether id was ever seen, even if its answer is gone.
func (c *Cache) Known(id solver.ID) bool {
	if c.isKnown(id) {
		return true
	}
	_, _, ok := c.answers.get(id[:])
	if ok {
		c.remember(id)
	}
	return ok
}

// isKnown is Known for an id that has no answer.
func (c *Cache) isKnown(id solver.ID) bool {
	c.mu.Lock()
	seen := c.seen[id]
	c.mu.Unlock()
	if seen {
		return true
	}
	_, used, ok := c.known.get(id[:])
	if !ok {
		return false
	}
	if time.Since(used) > touchAfter {
		c.known.put(id[:], nil)
	}
	c.remember(id)
	return true
}

// Sum implements solver.Cache.
func (c *Cache) Sum(id solver.ID, part solver.Part) (sum solver.Sum, ref string, ok bool) {
	k := sumKey(id, part)
	value, used, ok := c.sums.get(k)
	if !ok || len(value) < len(sum) {
		return sum, "", false
	}
	if time.Since(used) > touchAfter {
		c.sums.put(k, value)
	}
	return solver.Sum(value), string(value[len(sum):]), true
}

// PutSum implements solver.Cache.
func (c *Cache) PutSum(id solver.ID, part solver.Part, sum solver.Sum, ref string) {
	c.sums.put(sumKey(id, part), append(sum[:], ref...))
}

// Trim forgets what was not used since olderThan, and returns how many rows that is.
// Times of use are a day coarse.
func (c *Cache) Trim(olderThan time.Time) int {
	n := c.answers.trim(olderThan) + c.known.trim(olderThan) + c.sums.trim(olderThan)
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.seen)
	return n
}

func sumKey(id solver.ID, part solver.Part) []byte {
	return append(id[:], part[:]...)
}

// layersOf returns the layers of ref and their preferred blobs, if it consists of layers.
func layersOf(ref solver.Ref) (layers []string, preferred []digest.Digest, ok bool) {
	l, ok := ref.(Layered)
	if !ok {
		return nil, nil, false
	}
	if s := l.Snapshot(); s != nil {
		return s.LayerIDs(), s.Preferred(), true
	}
	return []string{}, nil, true
}

// answer reads the row of id.
func (c *Cache) answer(id solver.ID) (row answer, used time.Time, ok bool) {
	value, used, ok := c.answers.get(id[:])
	if !ok {
		return answer{}, used, false
	}
	if err := json.Unmarshal(value, &row); err != nil || row.Layers == nil {
		c.drop(id)
		return answer{}, used, false
	}
	return row, used, true
}

func (c *Cache) write(id solver.ID, row answer) {
	value, err := json.Marshal(row)
	if err != nil {
		return // cannot be: strings and a time
	}
	c.answers.put(id[:], value)
}

// drop removes the answer of id, which stays known.
func (c *Cache) drop(id solver.ID) {
	c.known.put(id[:], nil)
	c.answers.delete(id[:])
}

// see records that id was seen.
func (c *Cache) see(id solver.ID) {
	if !c.Known(id) {
		c.known.put(id[:], nil)
		c.remember(id)
	}
}

func (c *Cache) remember(id solver.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.seen) >= maxSeen {
		clear(c.seen)
	}
	c.seen[id] = true
}
