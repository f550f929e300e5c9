package remote

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
)

// Config is what caches work with; those without a sentence are required.
type Config struct {
	Store    *snapshot.Store
	Registry *registry.Client
	Sessions *bksession.Manager
	// Wrap makes the worker's kind of Ref of layers, and takes them over; it is given nil
	// for an empty filesystem.
	Wrap func(*snapshot.Ref) solver.Ref
	// Objects are the kinds of caches in places that keep objects: s3, azblob, gha.
	Objects map[string]OpenObjects
	// NoCheck leaves it to whoever needs the bytes to find that a registry has lost them.
	NoCheck bool
}

// An Entry is a cache as a client names it.
type Entry struct {
	Type  string
	Attrs map[string]string
}

// Name is what the display calls the cache.
func (e Entry) Name() string {
	switch e.Type {
	case "registry":
		return e.Attrs["ref"]
	case "local":
		return "local:" + e.Attrs["src"]
	case "store":
		return "images here named " + e.Attrs["ref"]
	case "s3":
		return "bucket " + cmp.Or(e.Attrs["bucket"], "$AWS_BUCKET") + " of " + titles[e.Type]
	case "azblob":
		return "container " + cmp.Or(e.Attrs["container"], "buildkit-cache") + " of " + titles[e.Type]
	case "gha":
		return "scope " + cmp.Or(e.Attrs["scope"], "buildkit") + " of " + titles[e.Type]
	}
	return e.Type
}

// Imports are the caches that one build reads. It is a solver.Cache that remembers nothing
// it is told.
type Imports struct {
	cfg   Config
	group bksession.Group

	mu     sync.RWMutex
	places [][]*memory // what was read for each place
	list   []*memory   // all of it, in this order; not changed, but replaced
	// trusted are repositories that are not asked whether they still hold what they promise.
	trusted map[registry.Location]bool
	// doubt is set when something turned out to be lost: from then on it is asked of each
	// layer whether it is still there before a result is promised.
	doubt bool
}

var (
	_ solver.Cache   = (*Imports)(nil)
	_ solver.Knower  = (*Imports)(nil)
	_ solver.Foreign = (*Imports)(nil)
	_ solver.Checker = (*Imports)(nil)
)

// NewImports returns Imports of no cache yet. Registries are asked with the credentials of
// a group of sessions.
func NewImports(cfg Config, g bksession.Group) *Imports { return &Imports{cfg: cfg, group: g} }

// A Place is where a cache stands among others. Those that have an earlier place are asked
// first, whichever has been read first.
type Place struct {
	im *Imports
	at int
}

// Place returns the next place.
func (im *Imports) Place() Place {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.places = append(im.places, nil)
	return Place{im, len(im.places) - 1}
}

// Load reads a cache's manifest and config. From then on Imports answer from it.
func (p Place) Load(ctx context.Context, e Entry, log *progress.Log) error {
	found, err := p.im.read(ctx, e, log)
	selected := Selection{all: true}
	if v, ok := e.Attrs["mounts"]; ok {
		selected = selectionOf(v)
	}
	for _, m := range found {
		m.selected = selected
	}
	p.put(found)
	return err
}

func (p Place) put(found []*memory) {
	p.im.mu.Lock()
	defer p.im.mu.Unlock()
	p.im.places[p.at] = found
	p.im.list = slices.Concat(p.im.places...)
}

// read reads a cache, or several. What was found counts, even if there is an error as well.
func (im *Imports) read(ctx context.Context, e Entry, log *progress.Log) ([]*memory, error) {
	g := im.group
	var found []*memory
	var o *origin
	var err error
	switch e.Type {
	case "store":
		found, err := im.readStore(ctx, e.Attrs["ref"], log)
		if err == nil {
			log.Track(fmt.Sprintf("images with a cache: %d", len(found))).Done()
		}
		return found, err
	case "registry":
		if e.Attrs["store"] == "true" {
			if found, err = im.readStore(ctx, e.Attrs["ref"], log); err != nil {
				return found, err
			}
		}
		o, err = im.fromRegistry(ctx, g, e.Attrs)
	case "local":
		o, err = fromClient(ctx, im.cfg.Sessions, g, e.Attrs)
	default:
		open := im.cfg.Objects[e.Type]
		if open == nil {
			return nil, unknown("importer", e.Type)
		}
		m, err := loadObjects(ctx, open, e)
		if err != nil {
			return nil, err
		}
		return []*memory{m}, nil
	}
	if err != nil {
		return found, err
	}
	m, err := o.load(ctx, log)
	if err != nil {
		return found, err
	}
	return append(found, m), nil
}

// Get implements solver.Cache. What it returns are promises.
func (im *Imports) Get(ctx context.Context, id solver.ID) (solver.Ref, bool, error) {
	im.mu.RLock()
	list, doubt := im.list, im.doubt
	im.mu.RUnlock()
	known := false
	for _, m := range list {
		known = known || m.knows(id)
		layers, ok := m.result(id)
		if !ok || doubt && !m.there(ctx, layers) {
			continue
		}
		if len(layers) == 0 {
			return im.cfg.Wrap(nil), true, nil
		}
		s, err := m.open(ctx, im.cfg.Store, layers)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, true, fmt.Errorf("import a result: %w", err)
		}
		return im.cfg.Wrap(s), true, nil
	}
	return nil, known, nil
}

// Known implements solver.Knower.
func (im *Imports) Known(id solver.ID) bool {
	im.mu.RLock()
	defer im.mu.RUnlock()
	return slices.ContainsFunc(im.list, func(m *memory) bool { return m.knows(id) })
}

// Sum implements solver.Cache. What it was computed from is somewhere else, so it is good
// for looking up only.
func (im *Imports) Sum(id solver.ID, part solver.Part) (solver.Sum, string, bool) {
	im.mu.RLock()
	defer im.mu.RUnlock()
	for _, m := range im.list {
		if sum, ok := m.sums[sumKey{id, part}]; ok {
			return sum, "", true
		}
	}
	return solver.Sum{}, "", false
}

// Drop implements solver.Cache.
func (im *Imports) Drop(id solver.ID, _ solver.Ref) {
	im.mu.Lock()
	defer im.mu.Unlock()
	for _, m := range im.list {
		im.doubt = im.doubt || m.knows(id)
		m.drop(id)
	}
}

// Put implements solver.Cache.
func (im *Imports) Put(solver.ID, solver.Ref) {}

// PutSum implements solver.Cache.
func (im *Imports) PutSum(solver.ID, solver.Part, solver.Sum, string) {}

// A memory is what was read from one place. Only what is under mu changes.
type memory struct {
	from   *origin // nil: the image store, whose layers are here or promised already
	layers map[digest.Digest]snapshot.ImageLayer
	known  map[solver.ID]bool
	sums   map[sumKey]solver.Sum

	mounts   map[mountKey]snapshot.ImageLayer
	selected Selection // those of mounts that are of use

	// records of all kinds, for BuildKit's names of answers; see bound.
	records map[digest.Digest][]stored

	mu      sync.Mutex
	results map[solver.ID]stored
	bound   map[solver.ID][]stored // what BuildKit remembers of our answers, as far as traced
	gone    map[digest.Digest]bool // layers that were asked for
}

// A stored is a record as a config has it: expanding all of them would take much memory.
type stored struct {
	c *learned
	r int
}

func (s stored) record() *record { return &s.c.Records[s.r] }

// whole reports whether the record has a result all of whose layers are known.
func (s stored) whole() bool { return s.c.has(*s.record(), s.c.whole) }

// A learned is a config of which is known what of it is of use.
type learned struct {
	*config
	whole []bool // by layer: it and all beneath it can be had
}

type sumKey struct {
	id   solver.ID
	part solver.Part
}

func newMemory(from *origin) *memory {
	return &memory{
		from:    from,
		gone:    map[digest.Digest]bool{},
		layers:  map[digest.Digest]snapshot.ImageLayer{},
		results: map[solver.ID]stored{},
		records: map[digest.Digest][]stored{},
		bound:   map[solver.ID][]stored{},
		known:   map[solver.ID]bool{},
		sums:    map[sumKey]solver.Sum{},
	}
}

// learn adds what a config says.
func (m *memory) learn(c *config, layers map[digest.Digest]snapshot.ImageLayer) {
	m.learnMounts(c)
	for d, l := range layers {
		m.layers[d] = l
	}
	l := &learned{c, c.whole(func(d digest.Digest) bool { return m.layers[d].DiffID != "" })}
	for i, r := range c.Records {
		id, ok := bytesOf(r.Digest)
		if !ok {
			continue
		}
		at := stored{l, i}
		m.records[r.Digest] = append(m.records[r.Digest], at)
		m.known[id] = true
		if at.whole() {
			m.results[id] = at
		}
		for _, alternatives := range r.Inputs {
			for _, in := range alternatives {
				of, ok := bytesOf(c.Records[in.Link].Digest)
				if part, isSum := partOf(in.Selector); ok && isSum {
					m.sums[sumKey{of, part}] = id
				}
			}
		}
	}
}

// result returns the layers of the result with an ID; none is an empty filesystem.
func (m *memory) result(id solver.ID) ([]snapshot.ImageLayer, bool) {
	m.mu.Lock()
	s, ok := m.results[id]
	if !ok {
		s, ok = newest(m.bound[id])
	}
	m.mu.Unlock()
	if !ok {
		return nil, false
	}
	blobs := s.c.layersOf(*s.record())
	layers := make([]snapshot.ImageLayer, len(blobs))
	for i, d := range blobs {
		layers[i] = m.layers[d]
	}
	return layers, true
}

// open makes a Ref of layers that result returned. It is errdefs.ErrNotFound if the image
// store has lost one.
func (m *memory) open(ctx context.Context, store *snapshot.Store, layers []snapshot.ImageLayer) (*snapshot.Ref, error) {
	if m.from != nil {
		return store.Image(ctx, layers)
	}
	diffIDs := make([]digest.Digest, len(layers))
	for i, l := range layers {
		diffIDs[i] = l.DiffID
	}
	return store.LayersOf(ctx, diffIDs)
}

func (m *memory) drop(id solver.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.results, id)
	for i, s := range m.bound[id] {
		m.bound[id][i].c = &learned{s.c.config, make([]bool, len(s.c.Layers))} // known, without a result
	}
}

// there asks of each layer, once, whether it can still be had.
func (m *memory) there(ctx context.Context, layers []snapshot.ImageLayer) bool {
	if m.from == nil {
		return true // open will see
	}
	for _, l := range layers {
		m.mu.Lock()
		gone, asked := m.gone[l.Blob.Digest]
		m.mu.Unlock()
		if !asked {
			ok, err := m.from.exists(ctx, l.Blob)
			if ctx.Err() != nil {
				return false
			}
			gone = err != nil || !ok
			m.mu.Lock()
			m.gone[l.Blob.Digest] = gone
			m.mu.Unlock()
		}
		if gone {
			return false
		}
	}
	return true
}
