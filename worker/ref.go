package worker

import (
	"context"
	"errors"
	"slices"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/source/local"
)

// A Ref is a result made of layers. A nil Snapshot is an empty filesystem.
type Ref struct{ snap *snapshot.Ref }

// NewRef returns the result s, which it then owns; nil, or no layers, is an empty
// filesystem.
func NewRef(s *snapshot.Ref) solver.Ref {
	if s != nil && len(s.LayerIDs()) == 0 { // as the diff of equals
		s.Release()
		s = nil
	}
	return &Ref{s}
}

// Snapshot returns the layers, or nil for an empty filesystem.
func (r *Ref) Snapshot() *snapshot.Ref { return r.snap }

// ID implements solver.Ref.
func (r *Ref) ID() string {
	if r.snap == nil {
		return "scratch"
	}
	return r.snap.ID()
}

// Retain implements solver.Ref.
func (r *Ref) Retain() solver.Ref {
	if r.snap == nil {
		return r
	}
	return &Ref{r.snap.Retain()}
}

// Release implements solver.Ref.
func (r *Ref) Release() {
	if r.snap != nil {
		r.snap.Release()
	}
}

// ShowIn implements solver.Lazy.
func (r *Ref) ShowIn(log *progress.Log) (stop func()) {
	if r.snap == nil {
		return nil
	}
	return r.snap.ShowIn(log)
}

// A TreeRef is a directory of the client as it was synced for one build. It has no
// layers until somebody needs them, and is never remembered by the cache: the directory
// changes with the next build.
type TreeRef struct {
	tree     *local.Tree
	excludes []string // ignore patterns it was synced with
	// all lists what the client has beside what was asked for; for error messages.
	all func(context.Context, solver.Demand) ([]string, error)
}

// ID implements solver.Ref.
func (r *TreeRef) ID() string {
	return "tree-" + r.tree.Digest().Encoded()
}

// Retain implements solver.Ref.
func (r *TreeRef) Retain() solver.Ref { return &TreeRef{r.tree.Retain(), r.excludes, r.all} }

// Release implements solver.Ref.
func (r *TreeRef) Release() { r.tree.Release() }

// Files opens ref for reading, fetching layers that are not here.
func (w *Worker) Files(ctx context.Context, a snapshot.Access, ref solver.Ref) (treehash.FS, error) {
	switch r := ref.(type) {
	case *TreeRef:
		return r.tree, nil
	case *Ref:
		if r.snap == nil {
			return treehash.Empty, nil
		}
		v, err := r.snap.View(ctx, a)
		return v, lost(ref, err)
	}
	return nil, errors.New("unknown kind of result")
}

// Layers returns ref as layers, retained for the caller; nil is an empty filesystem. A
// synced directory becomes one layer.
func (w *Worker) Layers(ctx context.Context, ref solver.Ref) (*snapshot.Ref, error) {
	switch r := ref.(type) {
	case *Ref:
		if r.snap == nil {
			return nil, nil
		}
		return r.snap.Retain(), nil
	case *TreeRef:
		return w.layerOf(ctx, r)
	}
	return nil, errors.New("unknown kind of result")
}

// lost turns the discovery that a layer of ref is gone into what the solver acts on. It
// returns other errors, and that a layer of something else is gone, as they are.
func lost(ref solver.Ref, err error) error {
	var gone *snapshot.LostError
	r, ok := ref.(*Ref)
	if ok && r.snap != nil && errors.As(err, &gone) && slices.Contains(r.snap.LayerIDs(), gone.LayerID) {
		return &solver.LostError{Ref: ref, Err: err}
	}
	return err
}
