package worker

import (
	"context"

	"github.com/dbuild/dbuild/solver"
)

// A Failure says what an operation saw that failed.
type Failure struct {
	Err error
	// Action is the number of the file action that failed, or -1.
	Action int
	// Input is the number of the input whose content could not be keyed, or -1.
	Input int
	// Inputs are those of a file operation by index, those of a process by the index of the
	// mount, or only the one that could not be keyed. Mounts are what the process or the file actions left, by index; nil where that cannot
	// be shown. They live as long as the Keepers that were told of the Failure want.
	Inputs, Mounts []solver.Ref
}

func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the error itself.
func (f *Failure) Unwrap() error { return f.Err }

// A Keeper is a Client that may want to look at what a failed operation left.
type Keeper interface {
	Client
	// Keeps says whether it does.
	Keeps() bool
	// Keep is called before anybody gets the error. What is to live on must be retained.
	Keep(*Failure)
}

// fail tells all who wait for d of a failure. left returns what there is to be kept, for
// the caller to release; it is not called if nobody keeps anything.
func fail(d solver.Demand, f *Failure, left func() []solver.Ref) error {
	var keepers []Keeper
	for j := range d.Jobs() {
		if k, ok := j.Value().(Keeper); ok && k.Keeps() {
			keepers = append(keepers, k)
		}
	}
	if len(keepers) == 0 {
		f.Inputs = nil
		return f
	}
	if left != nil {
		f.Mounts = left()
	}
	for _, k := range keepers {
		k.Keep(f)
	}
	for _, r := range f.Mounts {
		if r != nil {
			r.Release()
		}
	}
	return f
}

// left makes results of what is in the mounts of a process that failed.
func (o *execOp) left(ctx context.Context, m *mounting, in []solver.Ref) []solver.Ref {
	out := make([]solver.Ref, len(o.op.Mounts))
	for i, mt := range o.op.Mounts {
		if draft := m.drafts[i]; draft != nil {
			if snap, err := draft.Commit(ctx); err == nil {
				delete(m.drafts, i)
				out[i] = NewRef(snap)
			}
		} else if n := input(mt); n >= 0 && in[n] != nil && m.roots[i] != "" && mt.CacheOpt == nil {
			out[i] = in[n].Retain()
		}
	}
	return out
}
