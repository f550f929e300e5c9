package solver_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dbuild/dbuild/solver"
)

// A failure is seen once by each build, and another build may try again.
func TestFailure(t *testing.T) {
	for _, what := range []string{"bad", "hash-bad", "pin-a"} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			r.w.sources["a"] = "A"
			bad := r.w.op("bad", read{r.w.src("a"), 0, 0})
			v := r.w.op("join", read{r.w.op("l", read{bad, whole, 0}), whole, 0}, read{r.w.op("r", read{bad, whole, 0}), whole, 0})
			r.w.fail[what] = errExit
			j1, j2 := r.job(), r.job()
			defer j1.Close()
			defer j2.Close()
			for range 2 {
				_, err := j1.Build(t.Context(), solver.Edge{Vertex: v})
				var failed *solver.VertexError
				if !errors.As(err, &failed) || !errors.Is(err, errExit) || err.Error() != errExit.Error() {
					t.Fatal(err)
				}
				want := bad
				if what == "pin-a" {
					want = bad.Inputs[0].Vertex
				}
				if failed.Vertex != want {
					t.Error("blamed", failed.Vertex.Show.Name)
				}
				delete(r.w.fail, what) // the same build does not try again
			}
			res, err := j2.Build(t.Context(), solver.Edge{Vertex: v})
			if err != nil {
				t.Fatal("another build inherited the failure:", err)
			}
			take(res)
		})
	}
}

// When one of several inputs fails, the others are stopped and the failure is what is
// reported, not their cancellation.
func TestFirstRealError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.w.sources["a"] = "A"
		src := r.w.src("a")
		var in []read
		for i := range 5 {
			name := fmt.Sprint("o", i)
			r.w.dur[name] = time.Hour
			in = append(in, read{r.w.op(name, read{src, whole, 0}), whole, 0})
		}
		r.w.dur["o3"], r.w.fail["o3"] = time.Minute, errExit
		j, out := r.streamed()
		start := time.Now()
		_, err := j.Build(t.Context(), solver.Edge{Vertex: r.w.op("top", in...)})
		var failed *solver.VertexError
		if !errors.As(err, &failed) || failed.Vertex.Show.Name != "o3" || !errors.Is(err, errExit) {
			t.Error(err)
		}
		r.quietJob(j)
		if took := time.Since(start); took != time.Minute {
			t.Error("took", took)
		}
		got := out()
		if n := strings.Count(got, "error=context canceled"); n != 4 || !strings.Contains(got, "o3: completed error=exit code: 1") {
			t.Errorf("shown:\n%s", got)
		}
	})
}

func TestPanicOfAnOp(t *testing.T) {
	r := newRig(t)
	r.w.sources["a"] = "A"
	r.w.fail["p"] = errPanic
	j := r.job()
	_, err := j.Build(t.Context(), solver.Edge{Vertex: r.w.op("p", read{r.w.src("a"), whole, 0})})
	var failed *solver.VertexError
	if !errors.As(err, &failed) || failed.Vertex.Show.Name != "p" || err.Error() != "internal error: toy panic" {
		t.Error(err)
	}
	r.quietJob(j)
}

func TestBadGraphs(t *testing.T) {
	r := newRig(t)
	r.w.sources["a"] = "A"
	loop := r.w.op("x", read{r.w.src("a"), whole, 0})
	loop.Inputs[0].Vertex = loop
	slots := r.w.op("x", read{r.w.src("a"), whole, 0})
	slots.Inputs = append(slots.Inputs, slots.Inputs[0])
	for _, tt := range []struct {
		e    solver.Edge
		want string
	}{
		{solver.Edge{Vertex: loop}, "depends on itself"},
		{solver.Edge{}, "no operation"},
		{solver.Edge{Vertex: &solver.Vertex{Inputs: []solver.Edge{{}}, Op: loop.Op}}, "no operation"},
		{solver.Edge{Vertex: slots}, "1 slots for 2 inputs"},
		{solver.Edge{Vertex: r.w.src("a"), Output: 2}, "no output 2"},
		{solver.Edge{Vertex: r.w.src("a"), Output: -1}, "negative number"},
	} {
		j := r.job()
		if _, err := j.Build(t.Context(), tt.e); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("got %v, want %q", err, tt.want)
		}
		r.quietJob(j)
	}
}

// A client that leaves takes its session with it. If the step it shared fails then,
// those who stay get another try, but only one.
func TestFailureBecauseSomebodyLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.w.sources["a"] = "A"
		r.w.dur["x"], r.w.fail["x"] = time.Hour, errExit
		v := r.w.op("x", read{r.w.src("a"), whole, 0})
		ctx, leave := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for _, ctx := range []context.Context{ctx, t.Context()} {
			j := r.job()
			wg.Go(func() {
				defer j.Close()
				if res, err := j.Build(ctx, solver.Edge{Vertex: v}); err == nil {
					take(res)
				} else if ctx.Err() == nil {
					t.Error("whoever stayed failed:", err)
				}
			})
		}
		start := time.Now()
		time.Sleep(time.Minute)
		leave()
		r.w.mu.Lock()
		delete(r.w.fail, "x") // the first try fails, the second does not
		r.w.mu.Unlock()
		wg.Wait()
		r.ran("src-a x")
		if took := time.Since(start); took != 2*time.Hour {
			t.Error("took", took)
		}
		r.quiet()
	})
}

// The cache says yes but cannot deliver: the build goes on.
func TestLostAnswers(t *testing.T) {
	for _, n := range []int{1, 5} {
		r := newRig(t)
		r.w.sources = map[string]string{"a": "A", "b": "B"}
		v := r.w.src("a")
		for i := range 10 { // a chain of lost answers
			v = r.w.op(fmt.Sprint("x", i), read{v, whole, 0})
		}
		var in []read
		for i := range n { // and several at one step
			in = append(in, read{r.w.op(fmt.Sprint("y", i), read{v, whole, 0}), i - 1, 0})
		}
		for _, e := range in {
			r.build(e.v)
		}
		r.w.runs()
		for _, ref := range r.c.refs {
			if ref != nil {
				ref.(*val).data.lost.Store(true)
			}
		}
		j, out := r.streamed()
		z := solver.Edge{Vertex: r.w.op("z", append(in, read{r.w.src("b"), whole, 0})...)}
		res, err := j.Build(t.Context(), z)
		if err != nil {
			t.Fatal(err)
		}
		if got := take(res); got != r.w.naive(z) {
			t.Error(got)
		}
		r.quietJob(j)
		if got := out(); strings.Contains(got, "error") {
			t.Errorf("shown:\n%s", got)
		}
	}
}

// What is lost again and again is an error in the end.
func TestAlwaysLost(t *testing.T) {
	r := newRig(t)
	r.w.sources["a"] = "A"
	x := r.w.op("x", read{r.w.src("a"), whole, 0})
	r.w.fail["y"] = &solver.LostError{Ref: r.w.newVal("nobody's"), Err: errExit}
	y := r.w.op("y", read{x, whole, 0})
	j := r.job()
	var failed *solver.VertexError
	if _, err := j.Build(t.Context(), solver.Edge{Vertex: y}); !errors.As(err, &failed) || failed.Vertex != y {
		t.Error(err)
	}
	r.ran("src-a x")
	j.Close()
}

// An op that does not notice that nobody waits for it any more can still read its
// inputs and its pin.
func TestAbandonedRunKeepsItsInputs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.w.sources["a"] = "A"
		v := r.w.op("x", read{r.w.src("a"), whole, 0})
		for _, name := range []string{"src-a", "x"} {
			r.w.dur[name], r.w.fail[name] = time.Hour, errStubborn
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			j := r.job()
			if _, err := j.Build(ctx, solver.Edge{Vertex: v}); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			j.Close()
			r.c.forgetAll()
			r.quiet() // waits for it
			delete(r.w.dur, name)
		}
		r.ran("src-a x")
		r.build(v) // what it made is not wasted
		r.ran("")
		r.quiet()
	})
}
