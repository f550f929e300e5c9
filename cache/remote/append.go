package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/snapshot"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Appending keeps in a cache what earlier builds wrote there: docs/decisions/append.md.

const (
	// defaultAppend is how many builds a cache is about unless append-max says otherwise.
	defaultAppend = 50
	// maxAppended bounds the config and the manifest of a cache that is appended to, in
	// bytes: there have to be readers.
	maxAppended = registry.MaxManifest / 2
	// maxWrites is how often a cache is written because somebody else wrote it meanwhile.
	maxWrites = 8
	// maxSettle bounds how long a writer waits for others who may be writing.
	maxSettle = 2 * time.Second
)

// writers are the places that builds of this daemon append to: one at a time.
var writers turns

// turns lets one at a time do something with a place.
type turns struct {
	mu    sync.Mutex
	taken map[string]chan struct{} // closed when the place is free again
}

// enter waits until nobody else has the place, and takes it until done is called.
func (t *turns) enter(ctx context.Context, place string) (done func(), err error) {
	if place == "" {
		return func() {}, nil
	}
	for {
		t.mu.Lock()
		busy := t.taken[place]
		if busy == nil {
			free := make(chan struct{})
			if t.taken == nil {
				t.taken = map[string]chan struct{}{}
			}
			t.taken[place] = free
			t.mu.Unlock()
			return func() {
				t.mu.Lock()
				defer t.mu.Unlock()
				delete(t.taken, place)
				close(free)
			}, nil
		}
		t.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// appendFrom reads whether a cache is to be appended to, and how many builds it is about.
func appendFrom(a *exporter.Attrs) (builds int, err error) {
	wanted, most := a.Bool("append", false), a.String("append-max")
	if !wanted {
		if most != "" {
			return 0, fmt.Errorf("append-max=%s of a cache says nothing without append=true: %w", most, errdefs.ErrInvalidArgument)
		}
		return 0, nil
	}
	if most == "" {
		return defaultAppend, nil
	}
	builds, err = strconv.Atoi(most)
	if err != nil || builds < 1 {
		return 0, fmt.Errorf("append-max=%s of a cache is no number of builds: %w", most, errdefs.ErrInvalidArgument)
	}
	return builds, nil
}

// appendable is a store that may have a cache already.
type appendable interface {
	listed
	// before returns what is there, or nil if nothing is.
	before(ctx context.Context) (*origin, error)
	// place names where it is, for builds of this daemon that append to the same; "" if others
	// cannot be there.
	place() string
}

var errChanged = errors.New("somebody else has written the cache")

// A guarded store writes a manifest only where it still has what was read before.
type guarded struct {
	appendable
	was digest.Digest
}

func (g guarded) manifest(ctx context.Context, d ocispec.Descriptor, data []byte) error {
	now, err := g.before(ctx)
	if err != nil {
		return err
	}
	if topOf(now) != g.was {
		return errChanged
	}
	return g.appendable.manifest(ctx, d, data)
}

func topOf(o *origin) digest.Digest {
	if o == nil {
		return ""
	}
	return o.top.Digest
}

// appendDocuments writes c and what the store has. If somebody else writes at the same time it
// reads again what they wrote, and adds c to that.
func appendDocuments(ctx context.Context, to appendable, c contents, log *progress.Log) (map[string]string, error) {
	done, err := writers.enter(ctx, to.place())
	if err != nil {
		return nil, err
	}
	defer done()
	was, err := to.before(ctx)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		all, err := c.after(ctx, was, log)
		if err != nil {
			return nil, err
		}
		began := time.Now()
		top, err := writeDocuments(ctx, guarded{to, topOf(was)}, all, log)
		changed := errors.Is(err, errChanged)
		if err != nil && !changed {
			return nil, err
		}
		took := time.Since(began)
		if was, err = to.before(ctx); err != nil {
			return nil, err
		}
		if topOf(was) == top.Digest && to.place() != "" {
			// Somebody who asked before this was written may be writing now.
			if err := rest(ctx, min(2*took, maxSettle)); err != nil {
				return nil, err
			}
			if was, err = to.before(ctx); err != nil {
				return nil, err
			}
		}
		if !changed && topOf(was) != top.Digest {
			// Whoever wrote after this may have kept it.
			kept, err := c.in(ctx, was)
			if err != nil {
				return nil, err
			}
			if kept {
				return answer(was.top)
			}
		}
		switch {
		case !changed && topOf(was) == top.Digest:
			return answer(top)
		case try == maxWrites:
			log.Track("others keep writing this cache: it may lack what this build adds").Done()
			return answer(top)
		}
		if err := rest(ctx, rand.N(time.Duration(try)*200*time.Millisecond)); err != nil {
			return nil, err
		}
	}
}

func rest(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// in reports whether a cache that somebody else wrote has all records of c.
func (c contents) in(ctx context.Context, other *origin) (bool, error) {
	old, _, err := other.contents(ctx)
	if err != nil {
		return false, err
	}
	return old.covers(&c.config), nil
}

// after returns c together with what there is of a cache that was written before.
func (c contents) after(ctx context.Context, was *origin, log *progress.Log) (contents, error) {
	old, blobs, err := was.contents(ctx)
	if err != nil {
		return c, err
	}
	build := 0
	for _, r := range old.Records {
		build = max(build, r.Build)
	}
	build++
	for i := range c.Records {
		c.Records[i].Build = build
	}
	for i := range c.Mounts {
		c.Mounts[i].Build = build
	}
	whole := old.whole(func(d digest.Digest) bool { _, ok := blobs[d]; return ok })
	all := make([]bool, len(c.Layers))
	for i := range all {
		all[i] = true
	}
	for builds := c.opts.builds; ; builds /= 2 {
		m := newMerger()
		m.add(old, func(r *record) bool { return r.Build > build-builds }, whole)
		m.add(&c.config, func(*record) bool { return true }, all)
		m.mounts(old.Mounts, func(mt mount) bool { return mt.Build > build-builds })
		m.mounts(c.Mounts, func(mount) bool { return true })
		out := contents{m.config, maps.Clone(blobs), c.opts}
		maps.Copy(out.blobs, c.blobs)
		data, err := json.Marshal(out.config)
		if err != nil {
			return c, err
		}
		// A layer takes about 500 bytes in the manifest.
		if builds <= 1 || len(data) <= maxAppended && len(out.Layers)*500 <= maxAppended {
			kept := len(m.Records) - len(c.Records)
			log.Track(fmt.Sprintf("keeping %d records of earlier builds", kept)).Done()
			return out, nil
		}
	}
}

// contents reads a cache, and asks of each of its layers whether it is still there. A place
// where nothing is has an empty one.
func (o *origin) contents(ctx context.Context) (*config, map[digest.Digest]snapshot.Blob, error) {
	if o == nil {
		return &config{}, map[digest.Digest]snapshot.Blob{}, nil
	}
	data, err := o.read(ctx, o.top)
	if err != nil {
		return nil, nil, err
	}
	l, err := parseListing(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", o.name, err)
	}
	conf, layers, ok := l.cache()
	if !ok {
		return nil, nil, fmt.Errorf("%s is no cache but %s, which cannot be appended to: %w", o.name, l.MediaType, errdefs.ErrInvalidArgument)
	}
	c, known, err := o.config(ctx, conf, layers)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", o.name, err)
	}
	c.Mounts = slices.DeleteFunc(c.Mounts, func(mt mount) bool { return !mt.sound() })
	var mu sync.Mutex // guards there
	there := map[digest.Digest]bool{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	ask := func(d ocispec.Descriptor) {
		g.Go(func() error {
			ok, err := o.exists(gctx, d)
			if err != nil && !errdefs.IsNotFound(err) {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			there[d.Digest] = ok && err == nil
			return nil
		})
	}
	for _, l := range known {
		ask(l.Blob)
	}
	for _, mt := range c.Mounts {
		ask(ocispec.Descriptor{MediaType: mt.About.MediaType, Digest: mt.Blob, Size: mt.About.Size})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	c.Mounts = slices.DeleteFunc(c.Mounts, func(mt mount) bool { return !there[mt.Blob] })
	blobs := map[digest.Digest]snapshot.Blob{}
	for d, l := range known {
		if there[d] {
			blobs[d] = snapshot.Blob{Descriptor: l.Blob, DiffID: l.DiffID, Created: l.Created, Description: l.Desc.Description}
		}
	}
	return c, blobs, nil
}
