package snapshot

import (
	"context"
	"fmt"
	"slices"

	digest "github.com/opencontainers/go-digest"
)

// Squash returns a Ref with the same files as r whose layers above the lowest keep are one.
// That one holds what changed between the two: what was added and deleted again on the way
// is not in it. If there is at most one layer to squash, it is r itself, once more.
func (r *Ref) Squash(ctx context.Context, a Access, keep int, d Desc) (*Ref, error) {
	if len(r.layers)-keep <= 1 {
		return r.Retain(), nil
	}
	// Of the layers above it alone one cannot tell what a deletion deletes.
	dirs, err := r.files(ctx, a)
	if err != nil {
		return nil, err
	}
	below := slices.Clone(r.layers[:keep])
	r.s.hold(below)
	base := newRef(r.s, below, slices.Clone(r.prefer[:keep]), heads(below))
	defer base.Release()
	draft, err := r.s.NewDraft(ctx, base, d)
	if err != nil {
		return nil, err
	}
	if err := writeDiff(ctx, r.view(dirs, keep), r.view(dirs, len(dirs)), draft.Upper()); err != nil {
		_ = draft.Discard() // the first error is what matters
		return nil, fmt.Errorf("squash layers: %w", err)
	}
	return draft.Commit(ctx)
}

// Begins returns how many of the lowest layers have these diff IDs.
func (r *Ref) Begins(diffIDs []digest.Digest) int {
	n := 0
	for n < len(diffIDs) && n < len(r.layers) && r.layers[n].is(diffIDs[n], r.prefer[n]) {
		n++
	}
	return n
}

// is reports whether the layer, or the blob that stands for it, has a diff ID.
func (l *layer) is(diffID, prefer digest.Digest) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.row.DiffID == diffID {
		return true
	}
	return slices.ContainsFunc(l.row.Blobs, func(b blobRow) bool { return b.DiffID == diffID && b.Digest == prefer })
}
