package worker

import (
	"context"
	"errors"

	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	"github.com/moby/buildkit/solver/pb"
)

// mergeOp stacks its inputs. It moves no data.
type mergeOp struct {
	w      *Worker
	op     *pb.MergeOp
	id     solver.ID
	inputs int
}

func (o *mergeOp) Spec(context.Context, solver.Demand) (solver.Spec, error) {
	return solver.Spec{ID: o.id, Slots: make([]solver.Slot, o.inputs)}, nil
}

func (o *mergeOp) Run(ctx context.Context, _ solver.Demand, _ solver.Spec, in []solver.Ref) ([]solver.Ref, error) {
	refs := make([]*snapshot.Ref, 0, len(o.op.Inputs))
	defer func() {
		for _, r := range refs {
			r.Release()
		}
	}()
	for _, i := range o.op.Inputs {
		if i.Input < 0 {
			continue // scratch adds nothing
		}
		r, err := o.w.Layers(ctx, in[i.Input])
		if err != nil {
			return nil, err
		}
		if r != nil {
			refs = append(refs, r)
		}
	}
	return []solver.Ref{NewRef(o.w.Store.Merge(refs...))}, nil
}

// diffOp is what its upper input adds to its lower one.
type diffOp struct {
	w      *Worker
	op     *pb.DiffOp
	id     solver.ID
	inputs int
}

func (o *diffOp) Spec(context.Context, solver.Demand) (solver.Spec, error) {
	return solver.Spec{ID: o.id, Slots: make([]solver.Slot, o.inputs)}, nil
}

func (o *diffOp) Run(ctx context.Context, d solver.Demand, _ solver.Spec, in []solver.Ref) ([]solver.Ref, error) {
	side := func(i int64) (*snapshot.Ref, solver.Ref, error) {
		if i < 0 {
			return nil, nil, nil
		}
		r, err := o.w.Layers(ctx, in[i])
		return r, in[i], err
	}
	lower, lowerRef, err := side(o.op.Lower.Input)
	if err != nil {
		return nil, err
	}
	defer lower.Release()
	upper, upperRef, err := side(o.op.Upper.Input)
	if err != nil {
		return nil, err
	}
	defer upper.Release()
	ref, err := o.w.Store.Diff(ctx, o.w.access(d), lower, upper)
	if err != nil {
		err = lost(lowerRef, err)
		if was := (*solver.LostError)(nil); !errors.As(err, &was) {
			err = lost(upperRef, err)
		}
		return nil, err
	}
	return []solver.Ref{NewRef(ref)}, nil
}
