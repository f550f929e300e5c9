package solver_test

import (
	"context"
	"errors"
	"maps"
	"testing"

	"github.com/dbuild/dbuild/solver"
)

// plan returns what a plan of v says of the steps that it names.
func (r *rig) plan(v *solver.Vertex, names map[string]*solver.Vertex) map[string]string {
	r.Helper()
	j := r.s.NewJob("plan", solver.JobOptions{NoRuns: true})
	defer j.Close()
	fates, err := j.Plan(context.Background(), func(*solver.Vertex) bool { return true }, solver.Edge{Vertex: v})
	if err != nil {
		r.Fatal(err)
	}
	out := map[string]string{}
	for name, v := range names {
		f := fates[v]
		switch {
		case f.Found:
			out[name] = "found"
		case f.Covered:
			out[name] = "covered"
		case f.Unknown:
			out[name] = "unknown"
		case f.Made:
			out[name] = "made"
		}
	}
	return out
}

func TestPlan(t *testing.T) {
	r := newRig(t)
	r.w.sources = map[string]string{"alpine": "A", "golang": "G", "ctx": "main.go readme"}
	copysrc := r.w.op("copysrc", read{r.w.src("golang"), whole, 0}, read{r.w.src("ctx"), 0, 0})
	build := r.w.op("make", read{copysrc, whole, 0})
	copybin := r.w.op("copybin", read{r.w.src("alpine"), whole, 0}, read{build, 0, 0})
	names := map[string]*solver.Vertex{"copysrc": copysrc, "make": build, "copybin": copybin}
	check := func(want map[string]string) {
		t.Helper()
		if got := r.plan(copybin, names); !maps.Equal(got, want) {
			t.Errorf("planned %v, want %v", got, want)
		}
	}

	check(map[string]string{"copysrc": "made", "make": "made", "copybin": "unknown"})
	r.ran("src-ctx") // its content decides about copysrc
	r.build(copybin)
	r.w.runs()
	check(map[string]string{"copysrc": "covered", "make": "covered", "copybin": "found"})
	r.ran("")
	r.set("ctx", "other.go readme")
	check(map[string]string{"copysrc": "made", "make": "made", "copybin": "unknown"})
	r.ran("src-ctx")
	r.quiet()
}

func TestNoRuns(t *testing.T) {
	r := newRig(t)
	r.w.sources = map[string]string{"alpine": "A"}
	apk := r.w.op("apk", read{r.w.src("alpine"), whole, 0})
	build := func() error {
		j := r.s.NewJob("plan", solver.JobOptions{NoRuns: true})
		defer j.Close()
		res, err := j.Build(context.Background(), solver.Edge{Vertex: apk})
		if err == nil {
			take(res)
		}
		return err
	}
	if err := build(); !errors.Is(err, solver.ErrWouldRun) {
		t.Errorf("got %v, want ErrWouldRun", err)
	}
	r.ran("src-alpine")
	r.build(apk)
	r.w.runs()
	if err := build(); err != nil {
		t.Errorf("what is remembered is not found: %v", err)
	}
	r.ran("")
	r.quiet()
}
