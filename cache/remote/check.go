package remote

import (
	"context"
	"slices"
	"sync/atomic"

	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	"golang.org/x/sync/errgroup"
)

// checks bounds the layers that are asked for at once. More than a usual result has, so
// that all answers take as long as one.
const checks = 32

// Check implements solver.Checker: of what a registry has promised it asks whether that is
// still there, so that a result which is gone is a miss now, and not when a step that was
// started in its place needs the bytes. Only a registry that says so has lost something;
// with one that does not answer, or not to this client, the promise stands.
func (im *Imports) Check(ctx context.Context, ref solver.Ref) bool {
	l, ok := ref.(layered)
	if im.cfg.NoCheck || !ok || l.Snapshot() == nil {
		return true
	}
	elsewhere := l.Snapshot().Elsewhere()
	if len(elsewhere) == 0 {
		return true
	}
	im.mu.RLock()
	trusted := im.trusted
	im.mu.RUnlock()
	var lost atomic.Bool
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(checks)
	for _, blobs := range elsewhere {
		g.Go(func() error {
			if lost.Load() || im.held(gctx, blobs, trusted) {
				return nil
			}
			lost.Store(true)
			return context.Canceled // the others need not be asked
		})
	}
	_ = g.Wait()
	return !lost.Load() || ctx.Err() != nil
}

// held reports whether a layer may be had from some repository, as any of blobs.
func (im *Imports) held(ctx context.Context, blobs []snapshot.Blob, trusted map[registry.Location]bool) bool {
	for _, b := range blobs {
		// The last one to be noted is the most likely to have it.
		for _, loc := range slices.Backward(b.From) {
			if trusted[loc] {
				return true
			}
			if holds, known := im.cfg.Registry.Holds(ctx, im.group, loc, b.Descriptor); holds || !known {
				return true
			}
		}
	}
	return false
}

// trust has a repository not asked.
func (im *Imports) trust(loc registry.Location) {
	im.mu.Lock()
	defer im.mu.Unlock()
	trusted := map[registry.Location]bool{loc: true}
	for l := range im.trusted {
		trusted[l] = true
	}
	im.trusted = trusted // whoever reads the old one goes on doing so
}
