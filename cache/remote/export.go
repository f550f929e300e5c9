package remote

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// An Exporter writes one cache. It is good for one export.
type Exporter struct {
	name string
	opts options
	open func(context.Context, exporter.Access) (store, error)
}

// A store is where a cache is written to. Blobs are written concurrently; finish is called
// once, when all of them are there.
type store interface {
	// blob writes what b.Open returns, unless it is there already.
	blob(ctx context.Context, b snapshot.Blob, line *progress.Tracker) error
	// finish writes what is remembered, and what names that and its layers. It returns what
	// the client is told.
	finish(ctx context.Context, c contents, log *progress.Log) (map[string]string, error)
}

// contents is what a cache remembers, and by digest the blobs of the layers in it.
type contents struct {
	config
	blobs map[digest.Digest]snapshot.Blob
	opts  options
}

// Name is what the display calls the step.
func (x *Exporter) Name() string { return x.name }

// IgnoreError reports whether the build goes on if the export fails.
func (x *Exporter) IgnoreError() bool { return x.opts.ignoreError }

// Foreign reports whether the cache is to have BuildKit's names, for which the sums of
// Job.ForeignSums are needed.
func (x *Exporter) Foreign() bool { return x.opts.foreign }

// layered is a solver.Ref that consists of layers; nil is an empty filesystem.
type layered interface{ Snapshot() *snapshot.Ref }

// An outcome is an entry and the layers of its result.
type outcome struct {
	solver.Entry
	has   bool
	blobs []snapshot.Blob // empty for an empty filesystem
}

// A Build is what is known of a build.
type Build struct {
	Entries []solver.Entry
	Targets []*snapshot.Ref // that it was about
	// Epoch is the time that files of the build's image are no newer than, if there is one, so
	// that image and cache share their layers.
	Epoch *time.Time
	// Mounts are the cache mounts that are to be written.
	Mounts []Mount
}

// Export writes a cache.
func (x *Exporter) Export(ctx context.Context, of Build, a exporter.Access) (map[string]string, error) {
	epoch, c := of.Epoch, x.opts.compression
	c.Epoch = epoch
	line := a.Log.Track("preparing build cache for export")
	var outcomes []outcome
	var mounts []*snapshot.Blob
	var lines []*progress.Tracker
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		outcomes, err = x.results(gctx, of.Entries, of.Targets, c, a)
		return err
	})
	g.Go(func() (err error) {
		mounts, lines, err = x.copyMounts(gctx, of.Mounts, a.Log)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	line.Done()
	if !slices.ContainsFunc(outcomes, func(o outcome) bool { return len(o.blobs) > 0 }) &&
		!slices.ContainsFunc(mounts, func(b *snapshot.Blob) bool { return b != nil }) {
		a.Log.Track("skipping cache export for empty result").Done()
		return nil, nil
	}
	to, err := x.open(ctx, a)
	if err != nil {
		return nil, err
	}
	b := newBuilder()
	b.names = x.opts.foreign
	var gone map[digest.Digest]bool
	g, gctx = errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		gone, err = writeLayers(gctx, to, outcomes, a.Log)
		return err
	})
	g.Go(func() (err error) {
		b.Mounts, err = writeMounts(gctx, to, of.Mounts, mounts, lines, a.Log)
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, err
	}
	layers := map[digest.Digest]snapshot.Blob{}
	for _, o := range outcomes {
		lost := slices.ContainsFunc(o.blobs, func(l snapshot.Blob) bool { return gone[l.Digest] })
		switch {
		case !o.has || lost:
			b.add(o.Entry, nil, nil)
		case len(o.blobs) == 0:
			b.add(o.Entry, nil, []chain{{Layers: []int{}}})
		default:
			digests := make([]digest.Digest, len(o.blobs))
			for i, l := range o.blobs {
				digests[i] = l.Digest
				if epoch != nil && l.Created.After(*epoch) {
					l.Created = *epoch // as its files are: the same build is the same cache
				}
				layers[l.Digest] = l
			}
			b.add(o.Entry, []result{{Layer: b.stack(digests)}}, nil)
		}
	}
	return to.finish(ctx, contents{b.config, layers, x.opts}, a.Log)
}

// results finds the layers of each entry that is to have a result.
func (x *Exporter) results(ctx context.Context, entries []solver.Entry, targets []*snapshot.Ref, c snapshot.Compression, a exporter.Access) ([]outcome, error) {
	part := map[string]bool{}
	ids := map[string]bool{}
	for _, t := range targets {
		if t != nil {
			ids[t.ID()] = true
			for _, id := range t.LayerIDs() {
				part[id] = true
			}
		}
	}
	out := make([]outcome, len(entries))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, e := range entries {
		out[i].Entry = e
		l, ok := e.Ref.(layered)
		if !ok {
			continue
		}
		s := l.Snapshot()
		if s == nil {
			out[i].has = !e.Leaf
			continue
		}
		if e.Leaf && !ids[s.ID()] {
			continue // it is had from where it came from
		}
		if !x.opts.all && slices.ContainsFunc(s.LayerIDs(), func(id string) bool { return !part[id] }) {
			continue
		}
		g.Go(func() error {
			blobs, err := s.Blobs(ctx, snapshot.Access{Group: a.Group, Log: a.Log}, c)
			var lost *snapshot.LostError
			if errors.As(err, &lost) {
				return nil
			}
			out[i].has, out[i].blobs = err == nil, blobs
			return err
		})
	}
	return out, g.Wait()
}

// writeLayers writes each layer once, and returns those that are not to be had any more.
func writeLayers(ctx context.Context, to store, outcomes []outcome, log *progress.Log) (gone map[digest.Digest]bool, err error) {
	gone = map[digest.Digest]bool{}
	seen := map[digest.Digest]bool{}
	var mu sync.Mutex // guards gone
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, o := range outcomes {
		for _, l := range o.blobs {
			if seen[l.Digest] {
				continue
			}
			seen[l.Digest] = true
			g.Go(func() error {
				line := log.Track("writing layer " + l.Digest.String())
				err := to.blob(ctx, l, line)
				var lost *snapshot.LostError
				if errors.As(err, &lost) && ctx.Err() == nil {
					mu.Lock()
					gone[l.Digest] = true
					mu.Unlock()
					err = nil
				}
				if err == nil {
					line.Done()
				}
				return err
			})
		}
	}
	return gone, g.Wait()
}
