package solver_test

import (
	"context"
	"errors"
	"maps"
	"math/rand"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/solver"
)

// plan returns what a plan of v says of the steps that it names.
func (r *rig) plan(v *solver.Vertex, names map[string]*solver.Vertex) map[string]string {
	r.Helper()
	return r.planWith(nil, v, names)
}

// planWith is plan for a build that brings c along.
func (r *rig) planWith(c solver.Cache, v *solver.Vertex, names map[string]*solver.Vertex) map[string]string {
	r.Helper()
	j := r.s.NewJob("plan", solver.JobOptions{NoRuns: true, Cache: c})
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

// A plan says of what another solver remembers what a build with that cache then does, whether
// it remembers results or not, and by definition or by content.
func TestPlanOfForeign(t *testing.T) {
	count := map[string]int{}
	for seed := range int64(200) {
		r := newRig(t)
		rnd := rand.New(rand.NewSource(seed))
		r.w.sources = map[string]string{"alpine": "A", "golang": "G", "ctx": "main.go readme"}
		f := dockerfile(r.w)
		c := newElsewhere(r.w)
		c.remember(solver.Edge{Vertex: f}, func() (result, sums bool) { return rnd.Intn(3) > 0, rnd.Intn(2) > 0 })
		if rnd.Intn(3) == 0 {
			r.set("ctx", "other.go readme")
		}
		names := map[string]*solver.Vertex{}
		for todo := []*solver.Vertex{f}; len(todo) > 0; todo = todo[1:] {
			names[todo[0].Op.(*toyOp).name] = todo[0]
			for _, e := range todo[0].Inputs {
				if len(e.Vertex.Inputs) > 0 {
					todo = append(todo, e.Vertex)
				}
			}
		}
		r.w.runs()
		planned := r.planWith(c, f, names)
		if ran := strings.Fields(strings.ReplaceAll(r.w.runs(), "src-ctx", "")); len(ran) > 0 {
			t.Fatalf("seed %d: the plan ran %v", seed, ran)
		}
		r.buildWith(c, f)
		ran := " " + r.w.runs() + " "
		for name, state := range planned {
			count[state]++
			made := strings.Contains(ran, " "+name+" ")
			if wrong := made && (state == "found" || state == "covered") || !made && state == "made"; wrong {
				t.Fatalf("seed %d: %s was planned as %s, and the build ran%s", seed, name, state, ran)
			}
		}
		r.quiet()
	}
	if count["found"] == 0 || count["covered"] == 0 || count["made"] == 0 || count["unknown"] == 0 {
		t.Errorf("some cases never occurred: %v", count)
	}
}
