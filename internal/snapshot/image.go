package snapshot

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/registry"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// ImageLayer promises one layer of an image.
type ImageLayer struct {
	Blob   ocispec.Descriptor
	DiffID digest.Digest
	From   []registry.Location
	Desc   Desc
	// Created is when the layer was made; now if it is not known.
	Created time.Time
	// Cached says that it is promised by a cache: if it is lost, it can be made again.
	Cached bool
	// Open, if set, reads the blob from somewhere else than a registry (a client's OCI
	// layout); it is good only while the daemon runs.
	Open func(ctx context.Context, g bksession.Group) (io.ReadCloser, error)
}

// Image returns a Ref of promised layers; nothing is fetched. Layers already known by
// diff ID are shared, and learn the new location.
func (s *Store) Image(ctx context.Context, layers []ImageLayer) (*Ref, error) {
	if s.closing.Load() {
		return nil, errClosed
	}
	for i, il := range layers {
		if err := il.DiffID.Validate(); err != nil {
			return nil, fmt.Errorf("layer %d has no valid diff ID: %w", i, errdefs.ErrInvalidArgument)
		}
		if err := il.Blob.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("layer %d has no valid digest: %w", i, errdefs.ErrInvalidArgument)
		}
	}
	list := make([]*layer, 0, len(layers))
	prefer := make([]digest.Digest, 0, len(layers))
	var changed []*layer

	s.mu.Lock()
	known := make([]string, len(layers))
	err := s.db.View(func(tx *bolt.Tx) error {
		for i, il := range layers {
			known[i] = s.byDiffID(tx, il.DiffID)
		}
		return nil
	})
	now := time.Now()
	var parents []string
	for i, il := range layers {
		if err != nil {
			break
		}
		id := known[i]
		if id == "" {
			id = "d-" + il.DiffID.Encoded()
		}
		var l *layer
		if got, err := s.acquireLocked([]string{id}); err == nil {
			l = got[0]
		} else {
			// Also if a row has lost its files: the new one replaces it.
			id = "d-" + il.DiffID.Encoded()
			created := il.Created
			if created.IsZero() {
				created = now
			}
			l = s.newLayer(id, layerRow{
				Created: created, LastUsed: now, Description: il.Desc.Description, Type: il.Desc.Type,
				Parents: parents, DiffID: il.DiffID, Promised: true, Given: !il.Cached,
			})
			l.uses++
		}
		if l.learn(il) {
			changed = append(changed, l)
		}
		list = append(list, l)
		prefer = append(prefer, il.Blob.Digest)
		parents = []string{id}
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, l := range changed {
		l.persist(false, nil)
	}
	s.touch(list)
	return newRef(s, list, prefer, heads(list)), nil
}

// learn adds what an image says about the layer, and says whether that was news.
func (l *layer) learn(il ImageLayer) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if il.Open != nil {
		if l.open == nil {
			l.open = map[digest.Digest]openFunc{}
		}
		l.open[il.Blob.Digest] = il.Open
	}
	news := l.row.Promised && !l.row.Given && !il.Cached
	l.row.Given = l.row.Given || news
	for i := range l.row.Blobs {
		b := &l.row.Blobs[i]
		if b.Digest != il.Blob.Digest {
			continue
		}
		news = news || l.pending
		if len(b.URLs) == 0 && len(il.Blob.URLs) > 0 {
			b.URLs, news = slices.Clone(il.Blob.URLs), true
		}
		for _, loc := range il.From {
			if !slices.Contains(b.From, loc) {
				// The rows may be being encoded: do not write into the shared array.
				b.From = append(slices.Clone(b.From), loc)
				news = true
			}
		}
		return news
	}
	l.row.Blobs = append(slices.Clip(l.row.Blobs), blobRow{
		MediaType: il.Blob.MediaType,
		Digest:    il.Blob.Digest,
		Size:      il.Blob.Size,
		DiffID:    il.DiffID,
		From:      slices.Clone(il.From),
		URLs:      slices.Clone(il.Blob.URLs),
	})
	return true
}

// Elsewhere returns the layers that only registries hold and that could be made again if
// these did not, each as the blobs any of which would do.
func (r *Ref) Elsewhere() [][]Blob {
	var out [][]Blob
	for _, l := range r.layers {
		if blobs := l.elsewhere(); blobs != nil {
			out = append(out, blobs)
		}
	}
	return out
}

func (l *layer) elsewhere() []Blob {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dir != "" || l.row.Given {
		return nil
	}
	var out []Blob
	for _, b := range l.row.Blobs {
		if b.Local || l.open[b.Digest] != nil {
			return nil
		}
		if b.Epoch == nil && b.DiffID == l.row.DiffID && len(b.From) > 0 {
			out = append(out, Blob{Descriptor: b.descriptor(), DiffID: b.DiffID, From: slices.Clone(b.From)})
		}
	}
	return out
}

// source returns where the bytes of a blob can be had besides the content store.
func (l *layer) source(d digest.Digest) (from []registry.Location, open openFunc) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, b := range l.row.Blobs {
		if b.Digest == d {
			from = b.From
		}
	}
	return from, l.open[d]
}

// Diff returns what upper adds to lower: a suffix of its layers when upper extends
// lower, else one computed layer. Either may be nil.
func (s *Store) Diff(ctx context.Context, a Access, lower, upper *Ref) (*Ref, error) {
	if upper != nil {
		n := 0
		if lower != nil {
			n = len(lower.layers)
		}
		if n <= len(upper.layers) && (n == 0 || slices.Equal(lower.layers, upper.layers[:n])) {
			rest := upper.layers[n:]
			s.hold(rest)
			var top []string
			for _, h := range upper.heads {
				if slices.ContainsFunc(rest, func(l *layer) bool { return l.id == h }) {
					top = append(top, h)
				}
			}
			return newRef(s, rest, upper.prefer[n:], top), nil
		}
	}
	lv, err := s.viewOf(ctx, a, lower)
	if err != nil {
		return nil, err
	}
	uv, err := s.viewOf(ctx, a, upper)
	if err != nil {
		return nil, err
	}
	d, err := s.NewDraft(ctx, nil, Desc{Description: "difference of two results"})
	if err != nil {
		return nil, err
	}
	if err := writeDiff(ctx, lv, uv, d.Upper()); err != nil {
		d.Discard()
		return nil, fmt.Errorf("compute difference: %w", err)
	}
	return d.Commit(ctx)
}

func (s *Store) viewOf(ctx context.Context, a Access, r *Ref) (*View, error) {
	if r == nil {
		return newView(s.mnt.xattr()), nil
	}
	return r.View(ctx, a)
}
