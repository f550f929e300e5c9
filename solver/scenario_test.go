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

// dockerfile is a builder stage whose binary is copied onto a base:
//
//	golang, ctx ─▶ copysrc ─▶ make ─▶ (word 0) copybin
//	alpine ─▶ apk ──────────────────────▶ copybin
func dockerfile(w *world) *solver.Vertex {
	copysrc := w.op("copysrc", read{w.src("golang"), whole, 0}, read{w.src("ctx"), 0, 0})
	apk := w.op("apk", read{w.src("alpine"), whole, 0})
	return w.op("copybin", read{apk, whole, 0}, read{w.op("make", read{copysrc, whole, 0}), 0, 0})
}

func (r *rig) set(source, text string) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	r.w.sources[source] = text
}

// absorb changes ctx until v evaluates to text again.
func (r *rig) absorb(v *solver.Vertex, text string) {
	for i := 1; ; i++ {
		r.set("ctx", fmt.Sprint("v", i))
		if r.w.naive(solver.Edge{Vertex: v}) == text {
			return
		}
	}
}

func TestWhatRunsAgain(t *testing.T) {
	r := newRig(t)
	r.w.sources = map[string]string{"alpine": "A", "golang": "G", "ctx": "main.go readme"}
	f := dockerfile(r.w)
	r.build(f)
	r.ran("src-alpine src-golang src-ctx apk copysrc make copybin")
	gets := r.c.gets
	r.build(f)
	r.ran("")
	if n := r.c.gets - gets; n != 1 {
		t.Errorf("%d look-ups for an unchanged build", n)
	}
	r.set("ctx", "main.go README") // a file that is not read
	r.build(f)
	r.ran("src-ctx")
	binary := func() string { return word(r.w.naive(f.Inputs[1]), 0) }
	before := binary()
	for i := 2; binary() == before; i++ {
		r.set("ctx", fmt.Sprintf("main%d.go README", i))
	}
	r.build(f)
	r.ran("src-ctx copysrc make copybin")
	r.set("alpine", "A2") // the builder is not touched
	r.build(f)
	r.ran("src-alpine apk copybin")
	r.set("alpine", "A")
	r.set("ctx", "main.go readme")
	r.build(f)
	r.ran("")
	r.quiet()
}

// The builder changes but makes the same binary: nothing after it may run, and the
// other input of the final stage must not even be fetched.
func TestEarlyCutoff(t *testing.T) {
	r := newRig(t)
	r.w.sources = map[string]string{"alpine": "A", "golang": "G", "ctx": "v0"}
	f := dockerfile(r.w)
	r.build(f)
	r.w.runs()
	r.absorb(f, r.w.naive(solver.Edge{Vertex: f}))
	r.build(f)
	if got := r.w.runs(); !strings.Contains(got, "make") || strings.Contains(got, "copybin") || strings.Contains(got, "apk") || strings.Contains(got, "alpine") {
		t.Fatal("ran", got)
	}
	r.build(f)
	r.ran("")
}

// A cache exported in "min" mode holds one result, and the sums and keys that lead to
// it: enough to run nothing, and to cut off early.
func TestMinimalCache(t *testing.T) {
	r := newRig(t)
	r.w.sources = map[string]string{"alpine": "A", "golang": "G", "ctx": "v0"}
	f := dockerfile(r.w)
	j := r.job()
	res, err := j.Build(t.Context(), solver.Edge{Vertex: f})
	if err != nil {
		t.Fatal(err)
	}
	r.c.forget(true, func(_ solver.ID, ref solver.Ref) bool { return ref != nil && ref.ID() != res.Ref.ID() })
	res.Ref.Release()
	j.Close()
	r.w.runs()
	r.build(f)
	r.ran("")
	r.absorb(f, r.w.naive(solver.Edge{Vertex: f}))
	r.build(f)
	if got := r.w.runs(); strings.Contains(got, "alpine") || strings.Contains(got, "apk") || strings.Contains(got, "copybin") {
		t.Fatal("ran", got)
	}
	r.quiet()
}

// Two names for one image: what is built on top is built once, and both builds see
// what it prints.
func TestSameKeyDifferentDef(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.w.sources = map[string]string{"alpine:latest": "A", "alpine@sha256:a": "A"}
		r.w.dur["apk"] = time.Minute
		a := r.w.op("apk", read{r.w.src("alpine:latest"), whole, 0})
		b := r.w.op("apk", read{r.w.src("alpine@sha256:a"), whole, 0})
		var wg sync.WaitGroup
		for _, v := range []*solver.Vertex{a, b, a, b} {
			j, out := r.streamed()
			wg.Go(func() {
				res, err := j.Build(t.Context(), solver.Edge{Vertex: v})
				if err != nil {
					t.Error(err)
				} else {
					take(res)
				}
				j.Close()
				if got := out(); !strings.Contains(got, "apk: apk runs\n") {
					t.Errorf("the step's output is not shown:\n%s", got)
				}
			})
		}
		wg.Wait()
		if n := strings.Count(r.w.runs(), "apk"); n != 1 {
			t.Fatalf("apk ran %d times", n)
		}
		if n := len(r.w.jobs["apk"]); n != 4 {
			t.Errorf("apk knew of %d jobs", n)
		}
		r.quiet()
	})
}

// When nothing can be cached, independent stages run side by side.
func TestMakespan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.w.dur["apk"], r.w.dur["make"] = 30*time.Second, 60*time.Second
		f := dockerfile(r.w)
		tail := r.w.op("fin", read{r.w.op("fin0", read{f, whole, 0}), whole, 0})
		for i, v := range []*solver.Vertex{f, f, tail} {
			r.w.sources = map[string]string{"alpine": fmt.Sprint("A", i), "golang": "G", "ctx": fmt.Sprint("c", i)}
			start := time.Now()
			r.build(v)
			if took := time.Since(start); took != 60*time.Second {
				t.Errorf("build %d took %v", i, took)
			}
		}
		// With the base known, what decides is built before the base is touched.
		r.w.sources["ctx"] = "other"
		start := time.Now()
		r.build(f)
		if took := time.Since(start); took != 60*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// A chain of COPYs, each from a stage of its own, builds the stages side by side when all
// are new; when one has changed it builds that one only.
func TestStagesOfAChainOfCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.w.sources = map[string]string{}
		v := r.w.op("copy0", read{stage(r, 0), 0, 0})
		for i := 1; i < 8; i++ {
			v = r.w.op(fmt.Sprint("copy", i), read{v, whole, 0}, read{stage(r, i), 0, 0})
		}
		start := time.Now()
		r.build(v)
		if took := time.Since(start); took != time.Minute {
			t.Errorf("eight stages of a minute took %v", took)
		}
		r.w.runs()
		r.set("s3", "changed")
		r.build(v)
		got := r.w.runs()
		if !strings.Contains(got, "stage3") || strings.Contains(got, "stage4") || strings.Contains(got, "stage2") {
			t.Error("ran", got)
		}
		r.quiet()
	})
}

func stage(r *rig, i int) *solver.Vertex {
	name := fmt.Sprint("stage", i)
	r.w.sources[fmt.Sprint("s", i)] = name
	r.w.dur[name] = time.Minute
	return r.w.op(name, read{r.w.src(fmt.Sprint("s", i)), whole, 0})
}

func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.s = solver.New(solver.Config{Cache: r.c, MaxRuns: 2})
		r.w.sources["a"] = "A"
		src := r.w.src("a")
		var in []read
		for i := range 7 {
			name := fmt.Sprint("o", i)
			r.w.dur[name] = time.Minute
			in = append(in, read{r.w.op(name, read{src, whole, 0}), whole, 0})
		}
		top := r.w.op("top", in...)
		start := time.Now()
		r.build(top)
		if took := time.Since(start); took != 4*time.Minute {
			t.Errorf("7 minutes of work, two at a time, took %v", took)
		}
		j := r.s.NewJob("small", solver.JobOptions{MaxVertices: 8})
		if _, err := j.Build(t.Context(), solver.Edge{Vertex: top}); err == nil || !strings.Contains(err.Error(), "more than 8 steps") {
			t.Error(err)
		}
		j.Close()
		// Those who leave the queue do not take a slot.
		r.c.forgetAll()
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		j = r.job()
		if _, err := j.Build(ctx, solver.Edge{Vertex: top}); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		j.Close()
		r.build(top)
		r.quiet()
	})
}

// The last waiter to leave stops the work; others are not disturbed.
func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.w.sources["a"] = "A"
		r.w.dur["slow"] = time.Hour
		v := r.w.op("top", read{r.w.op("slow", read{r.w.src("a"), whole, 0}), whole, 0})
		errs := make(chan error)
		start := func(ctx context.Context) *solver.Job {
			j := r.job()
			go func() {
				defer j.Close()
				res, err := j.Build(ctx, solver.Edge{Vertex: v})
				if err == nil {
					take(res)
				}
				errs <- err
			}()
			return j
		}
		ctx1, cancel1 := context.WithCancel(t.Context())
		start(ctx1)
		start(t.Context())
		time.Sleep(time.Minute)
		cancel1()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if err := <-errs; err != nil {
			t.Fatal("the survivor was disturbed:", err)
		}
		r.ran("src-a slow top")
		if got := r.w.jobs["slow"]; len(got) != 1 || got[0] != "job2" {
			t.Error("at its end slow was for", got)
		}

		r.set("a", "B")
		ctx2, cancel2 := context.WithCancelCause(t.Context())
		start(ctx2)
		time.Sleep(time.Minute)
		enough := errors.New("enough")
		cancel2(enough)
		if err := <-errs; err != enough {
			t.Error("cause of cancellation:", err)
		}
		before := time.Now()
		r.quiet()
		j := start(t.Context())
		time.Sleep(time.Minute)
		j.Close()
		if err := <-errs; err != solver.ErrClosed {
			t.Error(err)
		}
		r.quiet()
		if time.Since(before) > time.Hour {
			t.Error("abandoned work went on")
		}
		if _, err := j.Build(t.Context(), solver.Edge{Vertex: v}); err != solver.ErrClosed {
			t.Error(err)
		}
		r.ran("src-a")
		r.build(v)
		r.ran("slow top")
		r.quiet()
	})
}

// no-cache reruns the step and what reads it by key, but a later build finds it.
func TestNoCache(t *testing.T) {
	r := newRig(t)
	r.w.sources["a"] = "A"
	x := r.w.op("x", read{r.w.src("a"), whole, 0})
	y := r.w.op("y", read{x, whole, 0})
	z := r.w.op("z", read{y, 1, 0})
	r.build(z)
	r.w.runs()
	xn, yn, zn := *x, *y, *z
	xn.NoCache = true
	yn.Inputs = []solver.Edge{{Vertex: &xn}}
	zn.Inputs = []solver.Edge{{Vertex: &yn}}
	r.build(&zn)
	r.ran("x y") // reading by content washes the stamp off
	r.w.salt["x"] = 1
	r.build(&yn)
	r.ran("x y")
	r.build(y)
	r.ran("")
	r.quiet()
}

// A result computed from one content must never be filed under another, even if a step
// gives different results under one key.
func TestNoPoison(t *testing.T) {
	r := newRig(t)
	r.w.sources["a"] = "A"
	x := r.w.op("x", read{r.w.src("a"), whole, 0})
	y := r.w.op("y", read{x, 2, 0})
	r.build(y)
	for _, salt := range []int{7, 0} { // x flips, and flips back
		r.c.forgetAll()
		r.w.salt["x"] = salt
		r.build(y)
	}
	r.c.forgetAll()
	before := r.w.naive(solver.Edge{Vertex: x})
	r.w.salt["x"] = 7
	r.build(y)
	r.set("b", before) // what y read at first is now elsewhere
	r.build(r.w.op("y", read{r.w.src("b"), 2, 0}))
	r.quiet()
}

func TestForget(t *testing.T) {
	r := newRig(t)
	r.w.sources["a"] = "A"
	v := r.w.op("x", read{r.w.src("a"), whole, 0})
	j := r.job()
	build := func() solver.Result {
		res, err := j.Build(t.Context(), solver.Edge{Vertex: v})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	res := build()
	r.ran("src-a x")
	j.Forget(res.Ref)
	take(res)
	again := build()
	r.ran("x")
	if again.Ref.ID() == res.Ref.ID() || again.Key != res.Key {
		t.Error("the forgotten ref was found again, or under another key")
	}
	take(again)
	r.quietJob(j)
}

// Only one of an op's outputs is still stored.
func TestSomeOutputsStored(t *testing.T) {
	r := newRig(t)
	r.w.sources["a"] = "A"
	x := r.w.op("x", read{r.w.src("a"), whole, 0})
	j := r.job()
	res, err := j.Build(t.Context(), solver.Edge{Vertex: x})
	if err != nil {
		t.Fatal(err)
	}
	out0 := solver.OutputID(res.Key.ID, 0)
	take(res)
	j.Close()
	r.c.forget(true, func(id solver.ID, _ solver.Ref) bool { return id != out0 })
	r.w.runs()
	both := r.w.op("both", read{x, whole, 0}, read{x, whole, 1})
	r.build(both)
	r.ran("src-a x both")
	r.quiet()
}

// A source pinned before a build began is looked at again; what is made of equal pins
// is shared.
func TestOldPinsAreNotShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.w.sources["a"] = "A"
		r.w.dur["slow"] = time.Hour
		v := r.w.op("slow", read{r.w.src("a"), whole, 0})
		var wg sync.WaitGroup
		begin := func() {
			want := r.w.naive(solver.Edge{Vertex: v})
			wg.Go(func() {
				if got := r.buildEdge(solver.Edge{Vertex: v}); got != want {
					t.Errorf("got %q, want %q", got, want)
				}
			})
			time.Sleep(time.Minute)
		}
		begin()
		begin()
		r.ran("src-a")
		r.set("a", "B")
		begin()
		wg.Wait()
		r.ran("src-a slow slow")
		r.quiet()
	})
}
