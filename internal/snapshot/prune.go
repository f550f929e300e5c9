package snapshot

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"regexp"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// PruneOptions says what may go. Sizes are bytes, zero means no bound.
type PruneOptions struct {
	Filters                                   []string
	All                                       bool // internal and frontend records too
	KeepDuration                              time.Duration
	ReservedSpace, MaxUsedSpace, MinFreeSpace int64
	// Demote takes the bytes only, and not the record, of layers that a registry is known to
	// hold: see demote.go. What is a promise already stays as long as somebody uses it now
	// and then.
	Demote bool
}

// pruneBatch is how many records one transaction removes.
const pruneBatch = 1000

// Prune removes records, least recently used first, never one in use, and calls removed
// for each. Names of the image store and the layers they need go only if a filter names
// type==image or their id.
//
// Without any size everything that may go does. MaxUsedSpace and MinFreeSpace say when
// to stop; ReservedSpace is kept in any case.
func (s *Store) Prune(ctx context.Context, o PruneOptions, removed func(Record)) error {
	s.pruneMu.Lock()
	defer s.pruneMu.Unlock()
	s.useReserve()
	defer s.keepReserve()
	p := &pruner{s: s, o: o, removed: removed, byID: map[string]*record{}, stays: map[*record]bool{}, demoted: map[*record]bool{}}
	if err := p.plan(ctx); err != nil {
		return err
	}
	err := p.run(ctx)
	if p.n > 0 {
		// What is left of them: blobs.
		if err1 := s.alloc.collect(context.WithoutCancel(ctx)); err == nil {
			err = err1
		}
	}
	return err
}

type pruner struct {
	s       *Store
	o       PruneOptions
	removed func(Record)

	match    filters.Filter
	explicit filters.Filter // filters that may touch images; nil if there are none
	byID     map[string]*record
	total    int64
	keep     int64 // -1: remove all that may go
	heap     recordHeap
	batch    []*record
	n        int
	stays    map[*record]bool // whether what is beneath a layer may be demoted, and it itself
	demoted  map[*record]bool
}

// namesImages finds filters that speak of images or of a record by name.
var namesImages = regexp.MustCompile(`(^|,)\s*(id\s*(==|~=)|type\s*==\s*"?image"?\s*(,|$))`)

func (p *pruner) plan(ctx context.Context) error {
	var err error
	if p.match, err = filters.ParseAll(p.o.Filters...); err != nil {
		return fmt.Errorf("filter: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	var explicit []string
	for _, f := range p.o.Filters {
		if namesImages.MatchString(f) {
			explicit = append(explicit, f)
		}
	}
	if len(explicit) > 0 {
		if p.explicit, err = filters.ParseAll(explicit...); err != nil {
			return err
		}
	}
	recs, err := p.s.records(ctx)
	if err != nil {
		return err
	}
	for _, r := range recs {
		p.byID[r.ID] = r
		p.total += r.Size
	}
	if p.keep, err = p.target(); err != nil {
		return err
	}
	for _, r := range recs {
		if p.eligible(r) {
			p.heap = append(p.heap, r)
		}
	}
	heap.Init(&p.heap)
	return nil
}

// target is the size to come down to.
func (p *pruner) target() (int64, error) {
	o := p.o
	if o.MaxUsedSpace == 0 && o.ReservedSpace == 0 && o.MinFreeSpace == 0 {
		return -1, nil
	}
	keep := o.MaxUsedSpace
	if o.MinFreeSpace > 0 {
		if lack := o.MinFreeSpace - p.s.free(); lack > 0 {
			if below := max(p.total-lack, 0); keep == 0 || below < keep {
				keep = below
			}
		} else if keep == 0 && o.ReservedSpace == 0 {
			keep = p.total // there is enough
		}
	}
	return max(keep, o.ReservedSpace), nil
}

// eligible says whether r may go now.
func (p *pruner) eligible(r *record) bool {
	if r.InUse || p.spared(r) || !p.match.Match(r.adapt()) {
		return false
	}
	explicit := p.explicit != nil && p.explicit.Match(r.adapt())
	if r.kind == imageRecord && !explicit {
		return false
	}
	above := r.children
	if p.demotes(r) {
		above -= r.lazyAbove // they need the record, and not its bytes
	}
	if pinned := len(r.images); above > pinned || pinned > 0 && !explicit {
		return false
	}
	if !p.o.All && (r.Type == TypeInternal || r.Type == TypeFrontend) {
		return false
	}
	return p.o.KeepDuration == 0 || time.Since(lastUsed(r)) >= p.o.KeepDuration
}

func lastUsed(r *record) time.Time {
	if r.LastUsed != nil {
		return *r.LastUsed
	}
	return r.Created
}

func (p *pruner) run(ctx context.Context) error {
	for p.heap.Len() > 0 && (p.keep < 0 || p.total > p.keep) {
		if err := ctx.Err(); err != nil {
			return err
		}
		p.drop(heap.Pop(&p.heap).(*record))
		if len(p.batch) >= pruneBatch {
			if err := p.flush(ctx); err != nil {
				return err
			}
		}
	}
	return p.flush(ctx)
}

// drop puts r on the list, and considers those that only it needed.
func (p *pruner) drop(r *record) {
	if p.byID[r.ID] != r {
		return
	}
	p.total -= r.Size
	if p.demotes(r) {
		p.demote(r)
		return
	}
	delete(p.byID, r.ID)
	for _, img := range r.images {
		if i := p.byID[img]; i != nil {
			p.drop(i) // a name without its layers is no use
		}
	}
	p.batch = append(p.batch, r)
	for _, id := range r.needs {
		need := p.byID[id]
		if need == nil {
			continue
		}
		need.children--
		if r.lazy {
			need.lazyAbove--
		}
		if r.kind == imageRecord {
			need.images = deleteString(need.images, r.ID)
		}
		need.Shared = need.children > 0
		if need.children == 0 && p.eligible(need) {
			heap.Push(&p.heap, need)
		}
	}
}

func deleteString(list []string, s string) []string {
	for i, v := range list {
		if v == s {
			return append(list[:i:i], list[i+1:]...)
		}
	}
	return list
}

// flush removes the batch, without those that came into use since.
func (p *pruner) flush(ctx context.Context) error {
	s := p.s
	batch := p.batch[:0]
	s.mu.Lock()
	for _, r := range p.batch {
		if s.condemn(r) {
			batch = append(batch, r)
		}
	}
	s.mu.Unlock()
	p.batch = nil
	if len(batch) == 0 {
		return nil
	}
	var slots []*slot
	err := s.do(context.WithoutCancel(ctx), false, func(tx *bolt.Tx) error {
		slots = slots[:0]
		for _, r := range batch {
			remove := s.removeRow
			if p.demoted[r] {
				remove = s.demoteRow
			}
			if err := remove(tx, r); err != nil {
				return fmt.Errorf("remove %s: %w", short(r.ID), err)
			}
			if r.slot != nil {
				slots = append(slots, r.slot)
			}
		}
		return nil
	})
	s.mu.Lock()
	for _, r := range batch {
		delete(s.dying, r.dyingKey())
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	p.n += len(batch)
	err = s.alloc.remove(slots)
	if p.removed != nil {
		for _, r := range batch {
			p.removed(r.Record)
		}
	}
	return err
}

func (r *record) dyingKey() string {
	if r.kind == dirRecord {
		return "dir " + r.key
	}
	return r.key
}

// condemn makes a record invisible if nobody uses it. The caller holds s.mu.
func (s *Store) condemn(r *record) bool {
	switch r.kind {
	case layerRecord:
		if l := s.layers[r.key]; l != nil {
			if l.uses > 0 {
				return false
			}
			l.gone.Store(true)
			delete(s.layers, r.key)
		}
	case dirRecord:
		if st := s.dirs[r.key]; st != nil {
			if st.users > 0 {
				return false
			}
			delete(s.dirs, r.key)
			st.forget()
		}
	case imageRecord:
		return true
	}
	s.dying[r.dyingKey()] = true
	return true
}

func (s *Store) removeRow(tx *bolt.Tx, r *record) error {
	lease := r.ID
	switch r.kind {
	case layerRecord:
		var row layerRow
		if getRow(bucket(tx, bucketLayers), r.key, &row) {
			if err := leaveIndex(tx, r.key, &row); err != nil {
				return err
			}
		}
		if err := bucket(tx, bucketLayers).Delete([]byte(r.key)); err != nil {
			return err
		}
	case dirRecord:
		if err := bucket(tx, bucketDirs).Delete([]byte(r.key)); err != nil {
			return err
		}
	case imageRecord:
		lease = imageLease(r.key)
		if err := bucket(tx, bucketImages).Delete([]byte(r.key)); err != nil {
			return err
		}
		if err := putRecall(tx, r.key, nil); err != nil {
			return err
		}
	}
	return s.letGo(tx, r, lease)
}

// letGo gives up the files and blobs that only a record kept.
func (s *Store) letGo(tx *bolt.Tx, r *record, lease string) error {
	ctx := s.ctx(context.Background())
	if r.slot != nil {
		if err := s.alloc.unname(ctx, tx, "", r.slot); err != nil {
			return err
		}
	}
	err := s.leases.Delete(boltutil.WithTransaction(ctx, tx), leases.Lease{ID: lease})
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// recordHeap is ordered by last use, the oldest on top; of two used at the same time the
// newer one goes first, since it is the more likely to depend on the other.
type recordHeap []*record

func (h recordHeap) Len() int { return len(h) }
func (h recordHeap) Less(i, j int) bool {
	return cmp.Or(lastUsed(h[i]).Compare(lastUsed(h[j])), h[j].Created.Compare(h[i].Created), cmp.Compare(h[i].ID, h[j].ID)) < 0
}
func (h recordHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *recordHeap) Push(x any)   { *h = append(*h, x.(*record)) }
func (h *recordHeap) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
