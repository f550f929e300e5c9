package bolt

import (
	"context"
	"fmt"
	"testing"

	"github.com/dbuild/dbuild/solver"
)

// An imageOp makes a Ref of its own layer on top of its inputs'.
type imageOp struct {
	f    *fixture
	name string
	in   int
	ran  *[]string
}

func (o *imageOp) Spec(context.Context, solver.Demand) (solver.Spec, error) {
	return solver.Spec{ID: id(o.name), Slots: make([]solver.Slot, o.in)}, nil
}

func (o *imageOp) Run(context.Context, solver.Demand, solver.Spec, []solver.Ref) ([]solver.Ref, error) {
	*o.ran = append(*o.ran, o.name)
	return []solver.Ref{o.f.ref(o.name)}, nil
}

// A build is found again after a restart, and its steps are made again when what was
// stored is lost.
func TestSolverRemembers(t *testing.T) {
	f := newFixture(t)
	var ran []string
	build := func() string {
		t.Helper()
		ran = nil
		var e solver.Edge
		for i := range 5 {
			v := &solver.Vertex{Def: solver.Def(id(fmt.Sprint("def", i))), Op: &imageOp{f, fmt.Sprint("op", i), i, &ran}}
			for range i {
				v.Inputs = append(v.Inputs, e)
			}
			e = solver.Edge{Vertex: v}
		}
		s := solver.New(solver.Config{Cache: f.Cache})
		j := s.NewJob("j", solver.JobOptions{})
		res, err := j.Build(t.Context(), e)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Ref.Release()
		j.Close()
		if err := s.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		return res.Ref.ID()
	}
	first := build()
	if len(ran) != 5 {
		t.Error("ran", ran)
	}
	for range 2 {
		if again := build(); again != first || len(ran) != 0 {
			t.Error("ran", ran)
		}
		f.reopen()
	}
	f.store.lost = true
	if again := build(); again != first || len(ran) != 5 {
		t.Error("ran", ran)
	}
}
