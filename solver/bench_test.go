package solver_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/dbuild/dbuild/solver"
)

// A quickOp does nothing, quickly.
type quickOp struct {
	id      solver.ID
	content []bool // by input: read by content
	runs    *atomic.Int64
}

type quickRef struct{ id string }

func (r *quickRef) ID() string         { return r.id }
func (r *quickRef) Retain() solver.Ref { return r }
func (r *quickRef) Release()           {}

func (o *quickOp) Spec(context.Context, solver.Demand) (solver.Spec, error) {
	s := solver.Spec{ID: o.id, Slots: make([]solver.Slot, len(o.content))}
	for i, c := range o.content {
		if c {
			s.Slots[i].Content = func(_ context.Context, _ solver.Demand, r solver.Ref) (solver.Sum, error) {
				return sha256.Sum256([]byte(r.ID())), nil
			}
		}
	}
	return s, nil
}

func (o *quickOp) Run(context.Context, solver.Demand, solver.Spec, []solver.Ref) ([]solver.Ref, error) {
	return []solver.Ref{&quickRef{fmt.Sprint(o.runs.Add(1))}}, nil
}

type graph struct{ runs atomic.Int64 }

func (g *graph) vertex(name string, content []bool, in ...solver.Edge) solver.Edge {
	if content == nil {
		content = make([]bool, len(in))
	}
	h := sha256.New()
	fmt.Fprintln(h, name)
	for _, e := range in {
		h.Write(e.Vertex.Def[:])
	}
	v := &solver.Vertex{Op: &quickOp{sha256.Sum256([]byte(name)), content, &g.runs}, Inputs: in, Show: shown(name)}
	h.Sum(v.Def[:0])
	return solver.Edge{Vertex: v}
}

func (g *graph) chain(n int) solver.Edge {
	e := g.vertex("src", nil)
	for i := range n {
		e = g.vertex(fmt.Sprint("op", i), nil, e)
	}
	return e
}

// copies is a chain in which every step copies from a common source.
func (g *graph) copies(n int) solver.Edge {
	ctx := g.vertex("ctx", nil)
	e := g.vertex("src", nil)
	for i := range n {
		e = g.vertex(fmt.Sprint("op", i), []bool{false, true}, e, ctx)
	}
	return e
}

func (g *graph) fan(n int) solver.Edge {
	src := g.vertex("src", nil)
	var in []solver.Edge
	for i := range n {
		in = append(in, g.vertex(fmt.Sprint("op", i), nil, src))
	}
	return g.vertex("join", nil, in...)
}

func (g *graph) grid(n int) solver.Edge {
	prev := make([]solver.Edge, n)
	for i := range prev {
		prev[i] = g.vertex(fmt.Sprint("src", i), nil)
	}
	for l := range n {
		next := make([]solver.Edge, n)
		for i := range next {
			next[i] = g.vertex(fmt.Sprintf("op%d.%d", l, i), nil, prev[i], prev[(i+1)%n])
		}
		prev = next
	}
	return g.vertex("join", nil, prev...)
}

// diamonds has two paths at every level: 2ⁿ in all.
func (g *graph) diamonds(n int) solver.Edge {
	e := g.vertex("src", nil)
	for i := range n {
		l := g.vertex(fmt.Sprint("l", i), nil, e)
		r := g.vertex(fmt.Sprint("r", i), []bool{true}, e)
		e = g.vertex(fmt.Sprint("join", i), []bool{false, true}, l, r)
	}
	return e
}

func quickBuild(tb testing.TB, s *solver.Solver, e solver.Edge) {
	j := s.NewJob("", solver.JobOptions{})
	defer j.Close()
	if _, err := j.Build(context.Background(), e); err != nil {
		tb.Fatal(err)
	}
}

var shapes = []struct {
	name  string
	make  func(*graph) solver.Edge
	count int64
}{
	{"chain10000", func(g *graph) solver.Edge { return g.chain(10000) }, 10001},
	{"copies10000", func(g *graph) solver.Edge { return g.copies(10000) }, 10002},
	{"fan10000", func(g *graph) solver.Edge { return g.fan(10000) }, 10002},
	{"grid100", func(g *graph) solver.Edge { return g.grid(100) }, 10101},
	{"diamonds40", func(g *graph) solver.Edge { return g.diamonds(40) }, 121},
}

// Large graphs are built once, are found again, and need few goroutines.
func TestLargeGraphs(t *testing.T) {
	for _, sh := range shapes {
		t.Run(sh.name, func(t *testing.T) {
			s := solver.New(solver.Config{Cache: newMemCache()})
			g := new(graph)
			e := sh.make(g)
			quickBuild(t, s, e)
			if n := g.runs.Load(); n != sh.count {
				t.Errorf("%d runs, want %d", n, sh.count)
			}
			quickBuild(t, s, sh.make(g))
			if n := g.runs.Load(); n != sh.count {
				t.Errorf("%d runs when cached", n-sh.count)
			}
			if err := s.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			if st := s.Stats(); st != (solver.Stats{}) {
				t.Errorf("left over: %+v", st)
			}
		})
	}
}

// blockOp blocks until its context ends, and says when it is there.
type blockOp struct {
	quickOp
	there chan struct{}
}

func (o *blockOp) Run(ctx context.Context, _ solver.Demand, _ solver.Spec, _ []solver.Ref) ([]solver.Ref, error) {
	close(o.there)
	<-ctx.Done()
	return nil, ctx.Err()
}

// A step that waits for others occupies no goroutine.
func TestWaitingIsCheap(t *testing.T) {
	s := solver.New(solver.Config{})
	g := new(graph)
	e := g.chain(10000)
	bottom := e
	for len(bottom.Vertex.Inputs) > 0 {
		bottom = bottom.Vertex.Inputs[0]
	}
	block := &blockOp{*bottom.Vertex.Op.(*quickOp), make(chan struct{})}
	bottom.Vertex.Op = block
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	failed := make(chan error)
	before := runtime.NumGoroutine()
	go func() {
		j := s.NewJob("", solver.JobOptions{})
		defer j.Close()
		_, err := j.Build(ctx, e)
		failed <- err
	}()
	<-block.there
	if n := runtime.NumGoroutine() - before; n > 100 {
		t.Errorf("%d goroutines for one run", n)
	}
	cancel()
	if err := <-failed; err == nil {
		t.Error("no error")
	}
	if err := s.Wait(t.Context()); err != nil {
		t.Error(err)
	}
}

func BenchmarkSolve(b *testing.B) {
	for _, sh := range shapes {
		b.Run(sh.name+"/cold", func(b *testing.B) {
			b.ReportAllocs()
			g := new(graph)
			e := sh.make(g)
			for b.Loop() {
				quickBuild(b, solver.New(solver.Config{Cache: newMemCache()}), e)
			}
		})
		b.Run(sh.name+"/cached", func(b *testing.B) {
			b.ReportAllocs()
			s := solver.New(solver.Config{Cache: newMemCache()})
			g := new(graph)
			e := sh.make(g)
			quickBuild(b, s, e)
			for b.Loop() {
				quickBuild(b, s, e)
			}
		})
	}
}
