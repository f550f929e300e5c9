package snapshot

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
)

// A Ref is an immutable filesystem. It implements solver.Ref through worker; ID is a
// hash of the layer IDs. Retain and Release count its uses; an unused layer may be pruned.
type Ref struct {
	s      *Store
	layers []*layer
	// prefer names, for each layer, the blob that the image it came from names. Images may
	// have the same files in different blobs.
	prefer []digest.Digest
	heads  []string // layers that no other of the stack was built on
	uses   atomic.Int64
	id     func() string
}

// newRef makes a Ref of layers that are already held for it.
func newRef(s *Store, layers []*layer, prefer []digest.Digest, heads []string) *Ref {
	r := &Ref{s: s, layers: layers, prefer: prefer, heads: heads}
	r.uses.Store(1)
	r.id = sync.OnceValue(func() string {
		sum := sha256.Sum256([]byte(strings.Join(r.LayerIDs(), "\n")))
		return hex.EncodeToString(sum[:])
	})
	return r
}

// ID names the content's composition: equal IDs are equal stacks of layers.
func (r *Ref) ID() string { return r.id() }

// Retain returns r, to be released once more.
func (r *Ref) Retain() *Ref {
	if r.uses.Add(1) == 1 {
		r.s.hold(r.layers)
	}
	return r
}

// Release gives up one use.
func (r *Ref) Release() {
	if r == nil {
		return // scratch
	}
	if r.uses.Add(-1) == 0 {
		r.s.unhold(r.layers)
	}
}

// LayerIDs returns the ids of the layers, oldest first. Store.Load accepts them.
func (r *Ref) LayerIDs() []string {
	ids := make([]string, len(r.layers))
	for i, l := range r.layers {
		ids[i] = l.id
	}
	return ids
}

// Preferred returns, for each layer, the blob that the image it came from names, "" if it
// came from none; nil if none did. Store.LoadAs accepts them.
func (r *Ref) Preferred() []digest.Digest {
	if !slices.ContainsFunc(r.prefer, func(d digest.Digest) bool { return d != "" }) {
		return nil
	}
	return slices.Clone(r.prefer)
}

// Load returns the Ref with the given layer IDs, or an errdefs.ErrNotFound.
func (s *Store) Load(ctx context.Context, layers []string) (*Ref, error) {
	return s.LoadAs(ctx, layers, nil)
}

// LoadAs is Load with what Preferred said of the Ref.
func (s *Store) LoadAs(ctx context.Context, layers []string, preferred []digest.Digest) (*Ref, error) {
	list, err := s.acquire(layers)
	if err != nil {
		return nil, err
	}
	s.touch(list)
	prefer := make([]digest.Digest, len(list))
	copy(prefer, preferred)
	return newRef(s, list, prefer, heads(list)), nil
}

// LayersOf returns the Ref of layers known by these diff IDs, or errdefs.ErrNotFound.
func (s *Store) LayersOf(ctx context.Context, diffIDs []digest.Digest) (*Ref, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]string, len(diffIDs))
	prefer := make([]digest.Digest, len(diffIDs))
	if err := s.db.View(func(tx *bolt.Tx) error {
		for i, d := range diffIDs {
			if ids[i] = s.byDiffID(tx, d); ids[i] == "" {
				ids[i] = s.byDiffID(tx, clamped(d))
			}
			if ids[i] == "" {
				return fmt.Errorf("layer with diff ID %s: %w", short(d.String()), errdefs.ErrNotFound)
			}
		}
		return nil
	}); err != nil {
		return nil, err
	}
	list, err := s.acquireLocked(ids)
	if err != nil {
		return nil, err
	}
	for i, l := range list {
		prefer[i] = l.blobOf(diffIDs[i])
	}
	return newRef(s, list, prefer, heads(list)), nil
}

// clamped is the name in the index of a blob whose files are clamped to an epoch: the
// layer's own files have other times, so nobody else's layer of that diff ID is it.
func clamped(d digest.Digest) digest.Digest { return "clamped " + d }

// indexNames are those under which a layer is found by diff ID.
func (r *layerRow) indexNames() []digest.Digest {
	var out []digest.Digest
	if r.DiffID != "" {
		out = append(out, r.DiffID)
	}
	for _, b := range r.Blobs {
		if b.Epoch != nil {
			out = append(out, clamped(b.DiffID))
		}
	}
	return out
}

// blobOf returns the digest of a blob with the diff ID, or "".
func (l *layer) blobOf(diffID digest.Digest) digest.Digest {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.row.Blobs {
		if b.DiffID == diffID {
			return b.Digest
		}
	}
	return ""
}

// byDiffID returns the layer with a diff ID, or "". The caller holds s.mu.
func (s *Store) byDiffID(tx *bolt.Tx, d digest.Digest) string {
	if id := s.byDiff[d]; id != "" && s.layers[id] != nil {
		return id
	}
	return string(bucket(tx, bucketDiffIDs).Get([]byte(d)))
}

// heads returns the layers that no other of the list was built on.
func heads(layers []*layer) []string {
	isParent := map[string]bool{}
	for _, l := range layers {
		l.mu.Lock()
		for _, p := range l.row.Parents {
			isParent[p] = true
		}
		l.mu.Unlock()
	}
	var out []string
	for _, l := range layers {
		if !isParent[l.id] {
			out = append(out, l.id)
		}
	}
	return out
}

// Merge returns a Ref with the layers of refs, lowest first. It moves no data. A layer
// that several of them share is kept where it is highest.
func (s *Store) Merge(refs ...*Ref) *Ref {
	var layers []*layer
	var prefer []digest.Digest
	var top []string
	last := map[*layer]int{}
	n := 0
	for _, r := range refs {
		if r == nil {
			continue
		}
		for _, l := range r.layers {
			last[l] = n
			n++
		}
	}
	n = 0
	for _, r := range refs {
		if r == nil {
			continue
		}
		for i, l := range r.layers {
			// Applying a layer twice is the same as applying it the last time only, as far
			// as its own paths go; below its last place it could only be hidden.
			if last[l] == n {
				layers = append(layers, l)
				prefer = append(prefer, r.prefer[i])
			}
			n++
		}
		top = append(top, r.heads...)
	}
	slices.Sort(top)
	s.hold(layers)
	return newRef(s, layers, prefer, slices.Compact(top))
}

// Here reports whether every layer is files on this machine.
func (r *Ref) Here() bool {
	for _, l := range r.layers {
		if l.here() == "" {
			return false
		}
	}
	return true
}

// files makes every layer files and returns their directories, oldest first.
func (r *Ref) files(ctx context.Context, a Access) ([]string, error) {
	if r == nil {
		return nil, nil
	}
	dirs := make([]string, len(r.layers))
	missing := false
	for i, l := range r.layers {
		dirs[i] = l.here()
		missing = missing || dirs[i] == ""
	}
	if missing {
		g, gctx := errgroup.WithContext(ctx)
		for i, l := range r.layers {
			if dirs[i] != "" {
				continue
			}
			g.Go(func() (err error) {
				dirs[i], err = l.materialise(gctx, a, r.prefer[i])
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return nil, err
		}
	}
	for i, l := range r.layers {
		if err := l.fixImplicit(func() *View { return r.view(dirs, i) }); err != nil {
			return nil, err
		}
	}
	return dirs, r.setApart(ctx, dirs)
}

// view looks into the lowest n layers.
func (r *Ref) view(dirs []string, n int) *View {
	v := newView(r.s.mnt.xattr())
	for i := n - 1; i >= 0; i-- {
		v.roots = append(v.roots, dirs[i])
		if r.layers[i].opaqueRoot() {
			break
		}
	}
	return v
}

func (l *layer) opaqueRoot() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.row.OpaqueRoot
}

// View makes every layer files and returns a reader of the whole. It is good until the
// Ref is released.
func (r *Ref) View(ctx context.Context, a Access) (*View, error) {
	dirs, err := r.files(ctx, a)
	if err != nil {
		return nil, err
	}
	return r.view(dirs, len(dirs)), nil
}

// Note returns what the topmost layer was annotated with, or nil.
func (r *Ref) Note() []byte {
	l := r.layers[len(r.layers)-1]
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.row.Note
}
