package history

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// A DB is what a Journal needs of a *snapshot.Store.
type DB interface {
	ViewDB(func(*bolt.Tx) error) error
	Later(func(*bolt.Tx) error)
}

// Config says where a Journal is kept and what it keeps.
type Config struct {
	Root string // directory for large blobs, of its own; required
	DB   DB     // required
	// Off keeps nothing new. What is there already stays until it is too old.
	Off bool
	// A record goes when it is older than MaxAge and there are MaxEntries newer ones.
	// If only one of them is set, it alone decides; without either it is 48 hours and 50.
	MaxAge     time.Duration
	MaxEntries int
	// Spans, if set, is given the spans of every finished build.
	Spans    func(sdktrace.ReadOnlySpan)
	Resource *resource.Resource // that spans say they come from; may be nil
	// Report, if set, is told what could not be kept, and why.
	Report func(error)
}

const (
	// maxRecords and maxBytes bound the records that are kept for their age alone: a busy
	// daemon makes thousands in two days.
	maxRecords = 2000
	maxBytes   = 512 << 20
	// maxPending bounds the records that wait in memory for the database.
	maxPending = 256
	// maxFinished bounds the finished builds that wait for the goroutine that writes.
	maxFinished = 256
	// maxRef is the length of a ref that is still remembered, in bytes.
	maxRef = 512
	// trimEvery is how often the age of records is looked at when nothing is built.
	trimEvery = time.Hour
)

// A Journal is the history of one state directory.
type Journal struct {
	cfg      Config
	finished chan *Entry
	stop     context.CancelFunc
	loop     sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	active    map[string]*Entry // until settled
	rows      map[string]*row   // settled
	blobs     map[digest.Digest]*blob
	waiting   []*row // not yet in the database, oldest first
	listeners map[*listener]bool
}

// A row is a settled record. What is not under the Journal's mu does not change.
type row struct {
	ref                string
	created, completed time.Time
	pinned             bool    // under mu
	digests            []held  // blobs it holds
	mem                *memory // under mu; nil once it is in the database
}

// held is one blob of a row.
type held struct {
	digest digest.Digest
	size   int64
	file   bool
}

// memory is what the database does not have yet. It does not change.
type memory struct {
	record *controlapi.BuildHistoryRecord
	small  map[digest.Digest][]byte
}

// Open opens the history that is kept in cfg.DB and cfg.Root.
func Open(cfg Config) (*Journal, error) {
	if cfg.MaxAge == 0 && cfg.MaxEntries == 0 {
		cfg.MaxAge, cfg.MaxEntries = 48*time.Hour, 50
	}
	if cfg.Report == nil {
		cfg.Report = func(error) {}
	}
	j := &Journal{
		cfg: cfg, finished: make(chan *Entry, maxFinished),
		active: map[string]*Entry{}, rows: map[string]*row{}, blobs: map[digest.Digest]*blob{},
		listeners: map[*listener]bool{},
	}
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	if err := j.load(); err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	if err := j.sweepFiles(); err != nil {
		return nil, fmt.Errorf("open history: %w", err)
	}
	var ctx context.Context
	ctx, j.stop = context.WithCancel(context.Background())
	j.loop.Go(func() { j.run(ctx) })
	return j, nil
}

// Close settles what has finished, and hands it to the database. Builds must have ended.
func (j *Journal) Close() {
	j.mu.Lock()
	closed := j.closed
	j.closed = true
	j.mu.Unlock()
	if closed {
		return
	}
	j.stop()
	j.loop.Wait()
}

// run settles finished builds until ctx ends, and then those that are left.
func (j *Journal) run(ctx context.Context) {
	tick := time.NewTicker(trimEvery)
	defer tick.Stop()
	j.trim()
	for {
		select {
		case e := <-j.finished:
			j.settle(e)
			j.trim()
		case <-tick.C:
			j.trim()
		case <-ctx.Done():
			for {
				select {
				case e := <-j.finished:
					j.settle(e)
				default:
					return
				}
			}
		}
	}
}

// trim drops the records that retention does not keep. Pinned ones do not count.
func (j *Journal) trim() {
	j.mu.Lock()
	var loose []*row
	for _, r := range j.rows {
		if !r.pinned {
			loose = append(loose, r)
		}
	}
	slices.SortFunc(loose, func(a, b *row) int { return b.created.Compare(a.created) })
	var bytes int64
	var old []string
	for i, r := range loose {
		for _, h := range r.digests {
			bytes += h.size
		}
		if i >= j.cfg.MaxEntries && (i >= maxRecords || bytes > maxBytes || time.Since(r.completed) >= j.cfg.MaxAge) {
			old = append(old, r.ref)
		}
	}
	for _, ref := range old {
		j.drop(ref)
	}
	j.mu.Unlock()
}

// drop forgets a settled record. j.mu is held.
func (j *Journal) drop(ref string) {
	r := j.rows[ref]
	if r == nil {
		return
	}
	delete(j.rows, ref)
	j.unwait(r)
	for _, h := range r.digests {
		j.letGo(r, h)
	}
	j.cfg.DB.Later(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketRoot)
		if b == nil || b.Bucket([]byte(ref)) == nil {
			return nil
		}
		return b.DeleteBucket([]byte(ref))
	})
	j.tell(&controlapi.BuildHistoryEvent{
		Type: controlapi.BuildHistoryEventType_DELETED, Record: &controlapi.BuildHistoryRecord{Ref: ref},
	})
}

// unwait takes r from the rows that wait for the database. j.mu is held.
func (j *Journal) unwait(r *row) {
	r.mem = nil
	if i := slices.Index(j.waiting, r); i >= 0 {
		j.waiting = slices.Delete(j.waiting, i, i+1)
	}
}

// Delete forgets the build ref, or says why it cannot.
func (j *Journal) Delete(ctx context.Context, ref string) error {
	if err := j.settled(ctx, ref); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.active[ref] != nil {
		return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("the build %s is still running: its record cannot be deleted", ref))
	}
	if j.rows[ref] == nil {
		return errNoRecord(ref)
	}
	j.drop(ref)
	return nil
}

// Pin keeps the record of a build whatever its age, or no longer does.
func (j *Journal) Pin(ctx context.Context, ref string, pinned bool) error {
	if err := j.settled(ctx, ref); err != nil {
		return err
	}
	rec, err := j.Record(ctx, ref)
	if err != nil {
		return err
	}
	rec = rec.CloneVT()
	rec.Pinned = pinned
	rec.Generation++
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.rows[ref]
	if r == nil {
		return errNoRecord(ref)
	}
	r.pinned = pinned
	m := &memory{record: rec}
	if r.mem != nil {
		m.small = r.mem.small
	}
	j.put(r, m)
	return nil
}

// Finalize waits until the build ref, if it has finished, has all its record will have.
func (j *Journal) Finalize(ctx context.Context, ref string) error { return j.settled(ctx, ref) }

// settled waits until no finished build is left unsettled, or not the one with this ref
// if it is not empty.
func (j *Journal) settled(ctx context.Context, ref string) error {
	for {
		j.mu.Lock()
		wait := j.unsettled(ref)
		j.mu.Unlock()
		if wait == nil {
			return nil
		}
		select {
		case <-wait.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// unsettled returns a finished build with this ref, or any if it is empty, that is not
// settled. j.mu is held.
func (j *Journal) unsettled(ref string) *Entry {
	if ref != "" {
		if e := j.active[ref]; e != nil && e.finished {
			return e
		}
		return nil
	}
	for _, e := range j.active {
		if e.finished {
			return e
		}
	}
	return nil
}

// Record returns the record of a settled build. It is not to be changed.
func (j *Journal) Record(ctx context.Context, ref string) (*controlapi.BuildHistoryRecord, error) {
	j.mu.Lock()
	r := j.rows[ref]
	if r != nil && r.mem != nil {
		defer j.mu.Unlock()
		return r.mem.record, nil
	}
	j.mu.Unlock()
	if r == nil {
		return nil, errNoRecord(ref)
	}
	rec := &controlapi.BuildHistoryRecord{}
	err := j.viewRow(ref, func(b *bolt.Bucket) error { return rec.UnmarshalVT(b.Get(keyRecord)) })
	return rec, err
}

// sortedRows are the settled builds, the oldest first. j.mu is held.
func (j *Journal) sortedRows() []*row {
	return slices.SortedFunc(maps.Values(j.rows), func(a, b *row) int {
		return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.ref, b.ref))
	})
}

func errNoRecord(ref string) error {
	return errdefs.ErrNotFound.WithMessage("there is no record of a build " + ref)
}
