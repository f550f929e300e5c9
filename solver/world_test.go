package solver_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/solver"
	digest "github.com/opencontainers/go-digest"
)

// A val is a Ref holding a text; its parts are the words of the text. Every Retain
// makes a handle of its own, so that a handle released twice, used after its release or
// never released is found out.
type val struct {
	w        *world
	data     *data
	released atomic.Bool
}

type data struct {
	id   string
	text string
	lost atomic.Bool
}

func (v *val) ID() string { return v.data.id }

func (v *val) Retain() solver.Ref {
	v.check("retained")
	return v.w.handle(v.data)
}

func (v *val) Release() {
	if v.released.Swap(true) {
		v.w.fault("%s released twice", v.data.id)
	}
	v.w.live.Add(-1)
}

func (v *val) check(use string) {
	if v.released.Load() {
		v.w.fault("%s %s after its release", v.data.id, use)
	}
}

// word returns the n'th word of a text: what a COPY of one file would see.
func word(text string, n int) string {
	w := strings.Fields(text)
	if len(w) == 0 {
		return ""
	}
	return w[n%len(w)]
}

// A world runs toy ops and counts what it ran.
type world struct {
	live   atomic.Int64 // handles
	lastID atomic.Int64
	hashed atomic.Int64

	mu      sync.Mutex
	sources map[string]string
	ran     map[string]int // op name + inputs read -> runs
	log     []string
	dur     map[string]time.Duration
	pinDur  time.Duration
	salt    map[string]int // makes an op non-deterministic
	fail    map[string]error
	faults  []string
	jobs    map[string][]string // ids of the jobs a run was for, when it ended
}

func newWorld() *world {
	return &world{
		sources: map[string]string{}, ran: map[string]int{}, dur: map[string]time.Duration{},
		salt: map[string]int{}, fail: map[string]error{}, jobs: map[string][]string{},
	}
}

func (w *world) handle(d *data) *val {
	w.live.Add(1)
	return &val{w: w, data: d}
}

func (w *world) newVal(text string) *val {
	return w.handle(&data{id: fmt.Sprintf("r%d", w.lastID.Add(1)), text: text})
}

func (w *world) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

const whole = -1

// A read is one input of an op: all of it by key, or one word of it by content.
type read struct {
	v      *solver.Vertex
	word   int
	output int
}

type toyOp struct {
	w     *world
	name  string
	reads []read
	src   string
}

func (o *toyOp) Spec(ctx context.Context, d solver.Demand) (solver.Spec, error) {
	if o.src != "" {
		o.w.mu.Lock()
		pin, dur, err := o.w.sources[o.src], o.w.pinDur, o.w.fail["pin-"+o.src]
		o.w.mu.Unlock()
		if err := sleep(ctx, dur); err != nil {
			return solver.Spec{}, err
		}
		if err != nil {
			return solver.Spec{}, err
		}
		return solver.Spec{ID: sha256.Sum256([]byte("src" + pin)), Pin: o.w.newVal(pin)}, nil
	}
	s := solver.Spec{ID: sha256.Sum256([]byte("op" + o.name)), Slots: make([]solver.Slot, len(o.reads))}
	for i, r := range o.reads {
		if r.word < 0 {
			continue
		}
		s.Slots[i] = solver.Slot{Part: solver.Part{byte(r.word)}, Content: func(ctx context.Context, _ solver.Demand, ref solver.Ref) (solver.Sum, error) {
			v := ref.(*val)
			v.check("hashed")
			o.w.mu.Lock()
			err := o.w.fail["hash-"+o.name]
			o.w.mu.Unlock()
			if err != nil {
				return solver.Sum{}, err
			}
			if v.data.lost.Load() {
				return solver.Sum{}, &solver.LostError{Ref: ref, Err: fmt.Errorf("gone")}
			}
			o.w.hashed.Add(1)
			return sha256.Sum256([]byte(word(v.data.text, r.word))), nil
		}}
	}
	return s, nil
}

func (o *toyOp) Run(ctx context.Context, d solver.Demand, spec solver.Spec, in []solver.Ref) ([]solver.Ref, error) {
	o.w.mu.Lock()
	dur, err := o.w.dur[o.name], o.w.fail[o.name]
	o.w.mu.Unlock()
	fmt.Fprintf(d.Log().Output(1), "%s runs\n", o.name)
	if err == errStubborn {
		ctx, err = context.WithoutCancel(ctx), nil
	}
	if err := sleep(ctx, dur); err != nil {
		return nil, err
	}
	if err != nil {
		if err == errPanic {
			panic("toy panic")
		}
		return nil, err
	}
	args := make([]string, len(in))
	for i, r := range in {
		v := r.(*val)
		v.check("read")
		if v.data.lost.Load() {
			return nil, fmt.Errorf("read input %d: %w", i, &solver.LostError{Ref: r, Err: fmt.Errorf("gone")})
		}
		args[i] = v.data.text
		if o.reads[i].word >= 0 {
			args[i] = word(v.data.text, o.reads[i].word)
		}
	}
	pin, _ := spec.Pin.(*val) // held by the solver, like a Ref
	if pin != nil {
		pin.check("pinned")
	}
	var jobs []string
	for j := range d.Jobs() {
		jobs = append(jobs, j.ID())
	}
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	if o.src != "" {
		args = []string{pin.data.text}
	}
	o.w.jobs[o.name] = jobs
	o.w.ran[o.name+"("+strings.Join(args, "|")+")"]++
	o.w.log = append(o.w.log, o.name)
	text := args[0]
	if o.src == "" {
		text = o.w.eval(o.name, args)
	}
	return []solver.Ref{o.w.newVal(text), o.w.newVal(other(text))}, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// other is the text of output 1.
func other(text string) string { return "z " + strings.ToUpper(text) }

func (w *world) eval(name string, args []string) string {
	h := sha256.Sum256([]byte(name + fmt.Sprint(w.salt[name]) + "(" + strings.Join(args, "|") + ")"))
	// few distinct words, so that early cutoff happens often
	return fmt.Sprintf("a%d b%d c%x", h[0]%2, h[1]%3, h[2:6])
}

// runs returns the names of the ops that ran since it was last called.
func (w *world) runs() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	s := strings.Join(w.log, " ")
	w.log = nil
	return s
}

// naive evaluates an edge without any cache.
func (w *world) naive(e solver.Edge) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.naiveMemo(e, map[*solver.Vertex]string{})
}

func (w *world) naiveMemo(e solver.Edge, memo map[*solver.Vertex]string) string {
	text, ok := memo[e.Vertex]
	if !ok {
		o := e.Vertex.Op.(*toyOp)
		if o.src != "" {
			text = w.sources[o.src]
		} else {
			args := make([]string, len(o.reads))
			for i, r := range o.reads {
				args[i] = w.naiveMemo(e.Vertex.Inputs[i], memo)
				if r.word >= 0 {
					args[i] = word(args[i], r.word)
				}
			}
			text = w.eval(o.name, args)
		}
		memo[e.Vertex] = text
	}
	if e.Output == 1 {
		return other(text)
	}
	return text
}

func shown(name string) progress.Vertex {
	return progress.Vertex{Digest: digest.FromString(name), Name: name}
}

func (w *world) src(name string) *solver.Vertex {
	return &solver.Vertex{Def: sha256.Sum256([]byte("src:" + name)), Op: &toyOp{w: w, name: "src-" + name, src: name}, Show: shown("src-" + name)}
}

func (w *world) op(name string, in ...read) *solver.Vertex {
	v := &solver.Vertex{}
	h := sha256.New()
	fmt.Fprintln(h, name)
	for _, r := range in {
		v.Inputs = append(v.Inputs, solver.Edge{Vertex: r.v, Output: r.output})
		fmt.Fprintf(h, "%x %d %d\n", r.v.Def, r.output, r.word)
	}
	v.Op = &toyOp{w: w, name: name, reads: in}
	h.Sum(v.Def[:0])
	v.Show = progress.Vertex{Digest: digest.NewDigestFromBytes(digest.SHA256, v.Def[:]), Name: name}
	return v
}

// A memCache is a Cache in memory that can be made to forget and to lie.
type memCache struct {
	mu   sync.Mutex
	refs map[solver.ID]solver.Ref // nil Ref: known, nothing left
	sums map[solver.ID]map[solver.Part]memSum
	gets int
}

type memSum struct {
	sum solver.Sum
	ref string
}

func newMemCache() *memCache {
	return &memCache{refs: map[solver.ID]solver.Ref{}, sums: map[solver.ID]map[solver.Part]memSum{}}
}

func (m *memCache) Get(_ context.Context, id solver.ID) (solver.Ref, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gets++
	r, known := m.refs[id]
	if r == nil {
		return nil, known, nil
	}
	return r.Retain(), true, nil
}

func (m *memCache) Put(id solver.ID, r solver.Ref) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.refs[id]
	if r == nil {
		m.refs[id] = old
		return
	}
	m.refs[id] = r.Retain()
	if old != nil {
		old.Release()
	}
}

func (m *memCache) Drop(id solver.ID, r solver.Ref) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if cur := m.refs[id]; cur != nil && cur.ID() == r.ID() {
		m.refs[id] = nil
		cur.Release()
	}
}

func (m *memCache) Sum(id solver.ID, p solver.Part) (solver.Sum, string, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, ok := m.sums[id][p]
	return s.sum, s.ref, ok
}

func (m *memCache) PutSum(id solver.ID, p solver.Part, s solver.Sum, ref string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sums[id] == nil {
		m.sums[id] = map[solver.Part]memSum{}
	}
	m.sums[id][p] = memSum{s, ref}
}

// forget makes every entry that pick chooses nothing but known, or not even that.
func (m *memCache) forget(known bool, pick func(solver.ID, solver.Ref) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, r := range m.refs {
		if !pick(id, r) {
			continue
		}
		if r != nil {
			r.Release()
		}
		m.refs[id] = nil
		if !known {
			delete(m.refs, id)
		}
	}
}

func (m *memCache) forgetAll() {
	m.forget(false, func(solver.ID, solver.Ref) bool { return true })
}

// A rig is a world with a solver and its cache.
type rig struct {
	*testing.T
	w *world
	c *memCache
	s *solver.Solver
	n atomic.Int64 // jobs
}

func newRig(t *testing.T) *rig {
	c := newMemCache()
	return &rig{T: t, w: newWorld(), c: c, s: solver.New(solver.Config{Cache: c})}
}

func (r *rig) job() *solver.Job {
	return r.s.NewJob(fmt.Sprint("job", r.n.Add(1)), solver.JobOptions{})
}

// build builds output 0 of v in a job of its own and checks the result.
func (r *rig) build(v *solver.Vertex) {
	r.Helper()
	e := solver.Edge{Vertex: v}
	got := r.buildEdge(e)
	if want := r.w.naive(e); got != want {
		r.Fatalf("got %q, want %q", got, want)
	}
}

func (r *rig) buildEdge(e solver.Edge) string {
	r.Helper()
	j := r.job()
	defer j.Close()
	res, err := j.Build(context.Background(), e)
	if err != nil {
		r.Fatal(err)
	}
	return take(res)
}

// take reads a result and releases it.
func take(res solver.Result) string {
	v := res.Ref.(*val)
	v.check("taken")
	defer v.Release()
	return v.data.text
}

// ran checks which ops ran since the last check, in any order, each once.
func (r *rig) ran(want string) {
	r.Helper()
	got, exp := strings.Fields(r.w.runs()), strings.Fields(want)
	slices.Sort(got)
	slices.Sort(exp)
	if !slices.Equal(got, exp) {
		r.Errorf("ran %v, want %v", got, exp)
	}
}

// quiet waits for abandoned work to unwind and checks that nothing is held but by the
// cache, and nothing at all once that is empty.
func (r *rig) quiet() {
	r.Helper()
	if err := r.s.Wait(context.Background()); err != nil {
		r.Fatal(err)
	}
	if st := r.s.Stats(); st != (solver.Stats{}) {
		r.Errorf("left over: %+v", st)
	}
	stored := int64(0)
	r.c.mu.Lock()
	for _, ref := range r.c.refs {
		if ref != nil {
			stored++
		}
	}
	r.c.mu.Unlock()
	if live := r.w.live.Load(); live != stored {
		r.Errorf("%d refs live, %d stored", live, stored)
	}
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	for _, f := range r.w.faults {
		r.Error(f)
	}
}
