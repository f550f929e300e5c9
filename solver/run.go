package solver

import (
	"context"
	"errors"
	"iter"
	"runtime/debug"
	"slices"
	"time"

	core "github.com/dbuild/dbuild/internal/flight"
	"github.com/dbuild/dbuild/internal/progress"
)

// users are the cells whose steps share a piece of work. Under Solver.mu.
type users struct {
	cells []*cell // one may be there more than once
	left  int     // how many left, and of how many jobs they knew that left
}

func (u *users) join(c *cell) { u.cells = append(u.cells, c) }

// leave removes c once and reports whether nobody is left.
func (u *users) leave(c *cell) bool {
	if i := slices.Index(u.cells, c); i >= 0 {
		u.cells = slices.Delete(u.cells, i, i+1)
		u.left += 1 + c.left
	}
	return len(u.cells) == 0
}

// departures grows when a job that waited for the work goes away.
func (u *users) departures(s *Solver) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := u.left
	for _, c := range u.cells {
		n += c.left
	}
	return n
}

// A demand is the Demand of shared work: the jobs of all cells that use it.
type demand struct {
	s   *Solver
	by  *users
	log *progress.Log
}

func (d *demand) Log() *progress.Log { return d.log }

// Jobs visits the jobs that are building, in the order in which they came.
func (d *demand) Jobs() iter.Seq[*Job] {
	return func(yield func(*Job) bool) {
		d.s.mu.Lock()
		var jobs []*Job
		for _, c := range d.by.cells {
			for _, j := range c.jobs {
				if len(j.roots) > 0 && !slices.Contains(jobs, j) {
					jobs = append(jobs, j)
				}
			}
		}
		d.s.mu.Unlock()
		slices.SortFunc(jobs, func(a, b *Job) int { return a.seq - b.seq })
		for _, j := range jobs {
			if !yield(j) {
				return
			}
		}
	}
}

// A run is an execution, shared by every cell that arrived at the same Key. It waits
// for no other flight. It is forgotten when the last step that wanted it has ended.
type run struct {
	flight // *outcome
	users
	k      runKey
	owner  *cell // whose op runs, and in whose log
	spec   *pinned
	output int       // that the owner wanted
	ins    []*answer // held
}

type runKey struct {
	Key
	forced bool // not satisfied by what the cache holds
}

// An outcome owns refs. Some may be nil in an outcome that was found.
type outcome struct {
	refs  []Ref
	found bool
}

// joinRun returns the run for m.key, or nil if nobody waits for a any more: then spec
// may be released already.
func (c *cell) joinRun(a *attempt, m *gathered, spec *pinned, output int) *run {
	s := c.s
	k := runKey{*m.key, m.forced}
	s.mu.Lock()
	if a.dead {
		s.mu.Unlock()
		return nil
	}
	r, ok := s.runs[k]
	if !ok {
		r = &run{k: k, owner: c, spec: spec, output: output, ins: slices.Clone(m.ins)}
		r.fn, r.limit = r.do, s.runLimit
		spec.uses++
		for _, ans := range r.ins {
			ans.uses++
		}
		s.runs[k] = r
	}
	r.join(c)
	c.began = true
	s.mu.Unlock()
	if r.owner != c {
		c.log.Link(r.owner.log)
	}
	return r
}

// leave removes one user. Solver.mu is held.
func (r *run) leave(c *cell) {
	if !r.users.leave(c) {
		return
	}
	r.unlist(c.s)
	held{answers: r.ins}.drop(c.s)
	r.spec.drop(c.s)
	if r.val != nil {
		c.s.discard(r.val)
		r.val = nil
	}
}

// unlist keeps others from joining. Whoever comes after a failure may have other inputs
// in hand, and is entitled to an attempt with those. Solver.mu is held.
func (r *run) unlist(s *Solver) {
	if s.runs[r.k] == r {
		delete(s.runs, r.k)
	}
}

// do is the leaf that executes.
func (r *run) do(a *attempt) (any, error) {
	c := r.owner
	if !a.hold(r.spec, r.ins) {
		return nil, context.Canceled
	}
	ctx := a.context()
	if r.k.Stamp == (Stamp{}) && !r.k.forced {
		// Another cell may have finished the same work since we last looked.
		if ref := c.get(ctx, OutputID(r.k.ID, r.output)); ref != nil {
			refs := make([]Ref, r.output+1)
			refs[r.output] = ref
			return &outcome{refs: refs, found: true}, nil
		}
	}
	in := make([]Ref, len(r.ins))
	for i, ans := range r.ins {
		in[i] = ans.ref
	}

	began := time.Now()
	refs, err := r.execute(ctx, in)
	if err != nil {
		c.s.mu.Lock()
		r.unlist(c.s)
		c.s.mu.Unlock()
		return nil, err
	}
	r.lasted(c.s, time.Since(began))
	for i, ref := range refs {
		if ref != nil {
			c.s.cache.Put(OutputID(r.k.ID, i), ref)
		}
	}
	for _, ans := range r.ins {
		c.s.cache.Put(ans.out, nil) // was seen
	}
	return &outcome{refs: refs}, nil
}

// lasted notes how long the run took.
func (r *run) lasted(s *Solver, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range r.cells {
		c.took = took
	}
}

// execute runs the op. If it fails while one of its jobs leaves, the others cannot know
// whether that was why (the op may have been using its session), and try once more.
func (r *run) execute(ctx context.Context, in []Ref) ([]Ref, error) {
	c := r.owner
	d := &demand{c.s, &r.users, c.log}
	for again := true; ; again = false {
		before := r.departures(c.s)
		done := c.log.Start()
		refs, err := r.call(ctx, d, in)
		if err == nil {
			done(nil)
			return refs, nil
		}
		again = again && ctx.Err() == nil && r.departures(c.s) != before
		var lost *LostError
		if again || errors.As(err, &lost) {
			done(nil) // it will run again
		} else {
			done(err)
		}
		if !again {
			return nil, err
		}
	}
}

func (r *run) call(ctx context.Context, d Demand, in []Ref) (refs []Ref, err error) {
	defer recovered(&err)
	return r.owner.v.Op.Run(ctx, d, r.spec.Spec, in)
}

// A summing is the digesting of one part of one Ref, shared by all who want it.
type summing struct {
	flight // *Sum
	users
	k       sumKey
	slot    Slot
	ans     *answer // held
	foreign bool    // of another solver's kind: an error is a zero Sum
}

type sumKey struct {
	out  ID
	part Part
	ref  string
}

func (c *cell) joinSum(ans *answer, slot Slot, foreign bool) *summing {
	s := c.s
	k := sumKey{ans.out, slot.Part, ans.id}
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.sums[k]
	if !ok {
		w = &summing{k: k, slot: slot, ans: ans, foreign: foreign}
		w.fn, w.limit = w.do, s.sumLimit
		ans.uses++
		s.sums[k] = w
	}
	w.join(c)
	return w
}

// leave removes one user. Solver.mu is held.
func (w *summing) leave(c *cell) {
	if w.users.leave(c) {
		delete(c.s.sums, w.k)
		w.ans.drop(c.s)
	}
}

// do is the leaf that digests.
func (w *summing) do(a *attempt) (any, error) {
	if !a.hold(nil, []*answer{w.ans}) {
		return nil, context.Canceled
	}
	sum, err := w.call(a)
	if err != nil && w.foreign && a.context().Err() == nil {
		return &Sum{}, nil
	}
	if err != nil {
		return nil, err
	}
	a.s.cache.PutSum(w.k.out, w.k.part, sum, w.k.ref)
	return &sum, nil
}

func (w *summing) call(a *attempt) (sum Sum, err error) {
	ctx := a.context()
	d := &demand{a.s, &w.users, w.log(a.s)}
	defer recovered(&err)
	return w.slot.Content(ctx, d, w.ans.ref)
}

// log is that of the first user.
func (w *summing) log(s *Solver) *progress.Log {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(w.cells) == 0 {
		return nil
	}
	return w.cells[0].log
}

// recovered turns a panic of an op into its error.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = &core.PanicError{Value: r, Stack: debug.Stack()}
	}
}
