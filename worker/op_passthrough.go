package worker

import (
	"context"

	"github.com/dbuild/dbuild/solver"
	"github.com/moby/buildkit/solver/pb"
)

// passthroughOp gives some of its inputs on as they are, once all of them are there.
type passthroughOp struct {
	op     *pb.PassthroughOp
	id     solver.ID
	inputs int
}

func (o *passthroughOp) Spec(context.Context, solver.Demand) (solver.Spec, error) {
	return solver.Spec{ID: o.id, Slots: make([]solver.Slot, o.inputs)}, nil
}

func (o *passthroughOp) Run(_ context.Context, _ solver.Demand, _ solver.Spec, in []solver.Ref) ([]solver.Ref, error) {
	out := make([]solver.Ref, len(o.op.Outputs))
	for i, n := range o.op.Outputs {
		out[i] = in[n].Retain()
	}
	return out, nil
}
