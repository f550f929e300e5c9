package solver_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"testing"

	"github.com/dbuild/dbuild/solver"
)

// An elsewhere is a cache that another solver wrote. It names an output by what it is made
// from, all the way down; sources whose name begins with "ctx" have no name there. A record
// may be found by the names of inputs, or by sums of what was read of them.
type elsewhere struct {
	w *world

	mu      sync.Mutex
	records []*record
	bound   map[solver.ID]map[*record]bool
}

type record struct {
	name, op string // of the output; of the op
	output   int
	inputs   []recordInput
	text     string
	result   bool
}

type recordInput struct {
	name string // "" if it has none
	word int
	sum  *solver.Sum
}

func newElsewhere(w *world) *elsewhere {
	return &elsewhere{w: w, bound: map[solver.ID]map[*record]bool{}}
}

func otherSum(text string, n int) *solver.Sum {
	s := solver.Sum(sha256.Sum256([]byte("other " + word(text, n))))
	return &s
}

// remember adds what the other solver would have remembered of e and all it is made from.
// keep says whether it still has a result, and whether it knows sums.
func (c *elsewhere) remember(e solver.Edge, keep func() (result, sums bool)) {
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(e, keep)
}

func (c *elsewhere) add(e solver.Edge, keep func() (result, sums bool)) string {
	o := e.Vertex.Op.(*toyOp)
	result, sums := keep()
	r := &record{op: o.name, output: e.Output, text: c.w.naiveMemo(e, map[*solver.Vertex]string{}), result: result}
	if o.src != "" {
		if strings.HasPrefix(o.src, "ctx") {
			return ""
		}
		r.op = "pin " + c.w.sources[o.src]
	}
	r.name = r.op
	for i, in := range o.reads {
		ri := recordInput{name: c.add(e.Vertex.Inputs[i], keep), word: in.word}
		if in.word >= 0 && (sums || ri.name == "") {
			ri.sum = otherSum(c.w.naiveMemo(e.Vertex.Inputs[i], map[*solver.Vertex]string{}), in.word)
		}
		if ri.name == "" && ri.sum == nil {
			return "" // made of something that has no name
		}
		what := ri.name
		if what == "" {
			what = fmt.Sprintf("%x", ri.sum[:4])
		}
		r.name += fmt.Sprintf("(%s %d)", what, in.word)
		r.inputs = append(r.inputs, ri)
	}
	r.name += fmt.Sprintf("@%d", e.Output)
	c.records = append(c.records, r)
	return r.name
}

func (c *elsewhere) Trace(op solver.Op, spec solver.Spec) (solver.Tracer, bool) {
	o := op.(*toyOp)
	t := &toyTracer{c: c, o: o}
	name := o.name
	if o.src != "" {
		if strings.HasPrefix(o.src, "ctx") {
			return nil, false
		}
		name = "pin " + spec.Pin.(*val).data.text
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.records {
		if r.op == name && len(r.inputs) == len(o.reads) {
			t.like = append(t.like, r)
		}
	}
	return t, len(t.like) > 0
}

type toyTracer struct {
	c    *elsewhere
	o    *toyOp
	like []*record
}

func (t *toyTracer) Content(i int) (solver.Slot, bool) {
	n := t.o.reads[i].word
	if n < 0 {
		return solver.Slot{}, false
	}
	return solver.Slot{Part: solver.Part{0: 100, 1: byte(n)}, Content: func(_ context.Context, _ solver.Demand, ref solver.Ref) (solver.Sum, error) {
		v := ref.(*val)
		v.check("hashed for another solver")
		if v.data.lost.Load() {
			return solver.Sum{}, &solver.LostError{Ref: ref, Err: errors.New("gone")}
		}
		return *otherSum(v.data.text, n), nil
	}}, true
}

func (t *toyTracer) Match(from []solver.Traced) (solver.Match, bool) {
	m := &toyMatch{c: t.c, from: from}
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	for _, r := range t.like {
		if t.c.made(r, t.o, from) {
			m.found = append(m.found, r)
		}
	}
	return m, len(m.found) > 0
}

func (c *elsewhere) made(r *record, o *toyOp, from []solver.Traced) bool {
	for i, in := range r.inputs {
		if in.word != o.reads[i].word {
			return false
		}
		ok := in.sum != nil && from[i].Sum != nil && *in.sum == *from[i].Sum
		for b := range c.bound[from[i].ID] {
			ok = ok || in.name != "" && b.name == in.name
		}
		if !ok {
			return false
		}
	}
	return true
}

type toyMatch struct {
	c     *elsewhere
	from  []solver.Traced
	found []*record
}

func (m *toyMatch) Sum(i int, part solver.Part) solver.Sum {
	if s := m.found[0].inputs[i].sum; s != nil {
		return sha256.Sum256(append([]byte("stands for"), s[:]...))
	}
	return sha256.Sum256(append(append([]byte("stands for"), m.from[i].ID[:]...), part[:]...))
}

func (m *toyMatch) Bind(key solver.ID) {
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	for _, r := range m.found {
		id := solver.OutputID(key, r.output)
		if m.c.bound[id] == nil {
			m.c.bound[id] = map[*record]bool{}
		}
		m.c.bound[id][r] = true
	}
}

func (c *elsewhere) Get(_ context.Context, id solver.ID) (solver.Ref, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.bound[id] {
		if r.result {
			return c.w.newVal(r.text), true, nil
		}
	}
	return nil, len(c.bound[id]) > 0, nil
}

func (c *elsewhere) Drop(id solver.ID, _ solver.Ref) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for r := range c.bound[id] {
		r.result = false
	}
}

func (c *elsewhere) Put(solver.ID, solver.Ref) {}
func (c *elsewhere) Sum(solver.ID, solver.Part) (solver.Sum, string, bool) {
	return solver.Sum{}, "", false
}
func (c *elsewhere) PutSum(solver.ID, solver.Part, solver.Sum, string) {}

// buildWith builds v in a job that brings c along.
func (r *rig) buildWith(c solver.Cache, v *solver.Vertex) {
	r.Helper()
	e := solver.Edge{Vertex: v}
	j := r.s.NewJob(fmt.Sprint("job", r.n.Add(1)), solver.JobOptions{Cache: c})
	defer j.Close()
	res, err := j.Build(context.Background(), e)
	if err != nil {
		r.Fatal(err)
	}
	if got, want := take(res), r.w.naive(e); got != want {
		r.Fatalf("got %q, want %q", got, want)
	}
}

func everything() (result, sums bool) { return true, true }

// What another solver remembers is found without building or reading anything but what has
// no name there, and found again by the next build, which comes without that cache.
func TestForeignNamesAreFound(t *testing.T) {
	for _, sums := range []bool{true, false} {
		r := newRig(t)
		r.w.sources = map[string]string{"alpine": "A", "golang": "G", "ctx": "main.go readme"}
		f := dockerfile(r.w)
		c := newElsewhere(r.w)
		c.remember(solver.Edge{Vertex: f}, func() (bool, bool) { return true, sums })
		r.buildWith(c, f)
		r.ran("src-ctx")
		if n := r.w.hashed.Load(); n != 1 {
			t.Errorf("%d parts were read, only the context has to be", n)
		}
		r.build(f)
		r.ran("")
		r.c.forgetAll()
		r.quiet()
	}
}

// A file of the context has changed: what it goes into runs, the rest is found.
func TestForeignNamesOfWhatChanged(t *testing.T) {
	r := newRig(t)
	r.w.sources = map[string]string{"alpine": "A", "golang": "G", "ctx": "v0"}
	f := dockerfile(r.w)
	c := newElsewhere(r.w)
	c.remember(solver.Edge{Vertex: f}, everything)
	before := word(r.w.naive(f.Inputs[1]), 0)
	for i := 1; word(r.w.naive(f.Inputs[1]), 0) == before; i++ {
		r.set("ctx", fmt.Sprint("v", i))
	}
	r.buildWith(c, f)
	// The bases and apk are found there.
	r.ran("src-ctx copysrc make copybin")
	r.c.forgetAll()
	r.quiet()
}

// The builder changes and makes the same binary: the other solver knew the binary.
func TestForeignContentCutsOff(t *testing.T) {
	r := newRig(t)
	r.w.sources = map[string]string{"alpine": "A", "golang": "G", "ctx": "v0"}
	f := dockerfile(r.w)
	c := newElsewhere(r.w)
	c.remember(solver.Edge{Vertex: f}, everything)
	r.absorb(f, r.w.naive(solver.Edge{Vertex: f}))
	r.buildWith(c, f)
	r.ran("src-ctx copysrc make")
	r.c.forgetAll()
	r.quiet()
}

// The same when all sums are remembered here and all answers forgotten: the key is known
// before anything is read, but only what is read leads to the other solver's answer.
func TestForeignContentIsLookedAtLate(t *testing.T) {
	r := newRig(t)
	r.w.sources = map[string]string{"alpine": "A", "golang": "G", "ctx": "v0"}
	f := dockerfile(r.w)
	c := newElsewhere(r.w)
	c.remember(solver.Edge{Vertex: f}, everything)
	r.absorb(f, r.w.naive(solver.Edge{Vertex: f}))
	r.build(f)
	r.w.runs()
	r.c.forget(true, func(solver.ID, solver.Ref) bool { return true })
	r.buildWith(c, f)
	r.ran("src-ctx copysrc make")
	r.c.forgetAll()
	r.quiet()
}

// Of a result that is not kept the name is still known: what is made from it is found.
func TestForeignNamesWithoutResults(t *testing.T) {
	r := newRig(t)
	r.w.sources = map[string]string{"alpine": "A", "golang": "G", "ctx": "v0"}
	f := dockerfile(r.w)
	c := newElsewhere(r.w)
	n := 0
	c.remember(solver.Edge{Vertex: f}, func() (bool, bool) { n++; return n == 1, false })
	r.buildWith(c, f)
	r.ran("src-ctx")
	// The last result is lost, too: everything runs, once.
	for _, rec := range c.records {
		rec.result = false
	}
	r.c.forgetAll()
	r.buildWith(c, f)
	r.ran("src-ctx src-golang src-alpine copysrc apk make copybin")
	r.build(f)
	r.ran("")
	r.c.forgetAll()
	r.quiet()
}

// TestForeignModel is TestModel with clients that bring along what another solver wrote in
// this world or in others, with and without results and sums.
func TestForeignModel(t *testing.T) {
	n := *seeds / 2
	if testing.Short() {
		n /= 5
	}
	for seed := range n {
		m := &model{rig: newRig(t), seed: seed, rnd: rand.New(rand.NewSource(int64(seed)))}
		m.s = solver.New(solver.Config{Cache: m.c, MaxRuns: m.rnd.Intn(5), MaxSums: 1 + m.rnd.Intn(3)})
		c := newElsewhere(m.w)
		for range 1 + m.rnd.Intn(8) {
			m.foreignRound(c)
			if t.Failed() {
				t.Fatal("seed", seed)
			}
		}
		m.c.forgetAll()
		m.quiet()
	}
}

func (m *model) foreignRound(c *elsewhere) {
	m.changeWorld()
	for _, s := range []string{"ctx0", "ctx1"} {
		m.set(s, fmt.Sprintf("a%d b%d c%d", m.rnd.Intn(2), m.rnd.Intn(2), m.rnd.Intn(3)))
	}
	m.corruptCache()
	failing := m.failures()
	vs := m.graph(true)
	for i := range 2 {
		ctx := m.w.src(fmt.Sprint("ctx", i))
		for range 2 {
			vs = append(vs, m.w.op(fmt.Sprint("o", m.rnd.Intn(6)), read{vs[m.rnd.Intn(len(vs))], whole, 0}, read{ctx, m.rnd.Intn(2), 0}))
		}
		vs = append(vs, m.w.op(fmt.Sprint("o", m.rnd.Intn(6)), read{vs[len(vs)-1], whole, 0}, read{vs[len(vs)-2], m.rnd.Intn(2), m.rnd.Intn(2)}))
	}
	for range m.rnd.Intn(3) {
		e := solver.Edge{Vertex: vs[4+m.rnd.Intn(len(vs)-4)], Output: m.rnd.Intn(2)}
		c.remember(e, func() (bool, bool) { return m.rnd.Intn(2) == 0, m.rnd.Intn(2) == 0 })
	}
	var wg sync.WaitGroup
	for range 1 + m.rnd.Intn(3) {
		impatient := m.rnd.Intn(4) == 0
		edges := make([]solver.Edge, 1+m.rnd.Intn(2))
		for i := range edges {
			edges[i] = solver.Edge{Vertex: vs[4+m.rnd.Intn(len(vs)-4)], Output: m.rnd.Intn(2)}
		}
		var opt solver.JobOptions
		if m.rnd.Intn(3) > 0 {
			opt.Cache = c
		}
		j := m.s.NewJob(fmt.Sprint("job", m.n.Add(1)), opt)
		wg.Go(func() { m.client(j, edges, impatient, failing) })
	}
	wg.Wait()
	m.quiet()
}
