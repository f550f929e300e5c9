package solver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dbuild/dbuild/internal/progress"
	digest "github.com/opencontainers/go-digest"
)

// JobOptions say what belongs to a build.
type JobOptions struct {
	Stream *progress.Stream // shows the job's vertices; may be nil
	Value  any              // whatever the job's ops need to find, such as its session
	// Cache is what the build brings along, asked after the solver's own. What it holds may
	// grow while the job runs.
	Cache Cache
	// NoRuns keeps the job from running anything but sources: what is not remembered is
	// ErrWouldRun.
	NoRuns bool
	// MaxVertices bounds how many vertices the job may load; 0 means no bound.
	MaxVertices int
}

// A Job is one client's build. It keeps what it asked for, until it is closed. Its
// methods are safe for concurrent use.
type Job struct {
	s       *Solver
	id      string
	opt     JobOptions
	seq     int
	stamp   Stamp
	created time.Time

	// Under Solver.mu:
	closed bool
	loaded map[*Vertex]*cell
	cells  map[Def]*cell     // each once; a job never changes its mind about a Def
	roots  map[*attempt]bool // of the Builds under way
	// scouts are the roots that scout made for the Builds under way, ended or not;
	// scouted are the cells that have sent theirs.
	scouts  map[*attempt]bool
	scouted map[*cell]bool
	hits    []*cell  // found since cover was last called
	last    JobStats // when closed
}

// JobStats count what became of a job's vertices.
type JobStats struct {
	Vertices int // loaded
	Hits     int // of them, found in the cache, or not needed because of what was found
	Runs     int // of them, executed, by this job or one it shared the work with
}

// A Result is an answer. The caller releases Ref.
type Result struct {
	Key Key
	Ref Ref
}

// ErrClosed is what Build returns when its job is closed.
var ErrClosed = errors.New("the build was closed")

var errOutput = errors.New("a step of the build reads an output with a negative number")

// NewJob opens a job. Close must be called.
func (s *Solver) NewJob(id string, opt JobOptions) *Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.jobs++
	s.open++
	if opt.NoRuns {
		s.planning++
	}
	return &Job{
		s: s, id: id, opt: opt, seq: s.jobs, stamp: jobStamp(id, s.jobs), created: time.Now(),
		loaded:  make(map[*Vertex]*cell),
		cells:   make(map[Def]*cell),
		roots:   make(map[*attempt]bool),
		scouts:  make(map[*attempt]bool),
		scouted: make(map[*cell]bool),
	}
}

// ID returns the id given to NewJob.
func (j *Job) ID() string { return j.id }

// Value returns the Value given to NewJob.
func (j *Job) Value() any { return j.opt.Value }

// Build returns the result of e, finding or making it. If it fails because of a
// vertex, the error is or wraps a *VertexError.
func (j *Job) Build(ctx context.Context, e Edge) (Result, error) {
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	if e.Output < 0 {
		return Result{}, errOutput
	}
	c, err := j.load(e.Vertex)
	if err != nil {
		return Result{}, err
	}
	s := j.s
	target := c.result(e.Output)
	root := &attempt{s: s, job: j, end: make(chan struct{}), busy: true}
	root.f = &flight{fn: func(a *attempt) (any, error) {
		if a.subErr != nil {
			return nil, a.subErr
		}
		if val := a.need(target); val != nil {
			return val, nil
		}
		return nil, errWait
	}}
	s.mu.Lock()
	if j.closed {
		s.mu.Unlock()
		return Result{}, ErrClosed
	}
	j.roots[root] = true
	s.addWorkers(1)
	s.mu.Unlock()
	go s.work(root)

	select {
	case <-root.end:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.unlock()
	delete(j.roots, root)
	j.recall()
	if !root.ended {
		if !root.dead {
			s.kill(root)
		}
		root.valErr = context.Cause(ctx)
		j.giveUp()
	}
	if root.valErr != nil {
		return Result{}, root.valErr
	}
	ans := root.val.(*answer) // held by root.val
	s.mu.Unlock()
	j.cover(ctx)
	ref := ans.ref.Retain()
	s.mu.Lock()
	ans.drop(s)
	return Result{Key: ans.key, Ref: ref}, nil
}

// giveUp notes that j waits for nothing any more, if so. s.mu is held.
func (j *Job) giveUp() {
	if len(j.roots) > 0 {
		return
	}
	for _, c := range j.cells {
		c.left++
	}
}

// Forget drops the answers of the job that are ref, here and in the cache, so that the
// next Build makes it again. It is for those who find that ref cannot be read.
func (j *Job) Forget(ref Ref) {
	id := ref.ID()
	j.s.mu.Lock()
	var lost []*answer
	for _, c := range j.cells {
		for _, f := range c.answers {
			if ans, ok := f.val.(*answer); ok && ans.id == id {
				f.val = nil
				lost = append(lost, ans)
			}
		}
	}
	j.s.mu.Unlock()
	for _, ans := range lost {
		j.s.cache.Drop(ans.out, ans.ref)
		if j.opt.Cache != nil {
			j.opt.Cache.Drop(ans.out, ans.ref)
		}
	}
	j.s.mu.Lock()
	defer j.s.unlock()
	for _, ans := range lost {
		ans.drop(j.s)
	}
}

// Pin returns what v's op pinned (Spec.Pin), if the job has loaded v and that is known. It
// may have been released.
func (j *Job) Pin(v *Vertex) (pin any, ok bool) {
	j.s.mu.Lock()
	defer j.s.mu.Unlock()
	c := j.loaded[v]
	if c == nil {
		return nil, false
	}
	p, ok := c.spec.val.(*pinned)
	if !ok {
		return nil, false
	}
	return p.Pin, true
}

// Stats counts what became of the job's vertices so far.
func (j *Job) Stats() JobStats {
	j.s.mu.Lock()
	defer j.s.mu.Unlock()
	return j.stats()
}

func (j *Job) stats() JobStats {
	if j.closed {
		return j.last
	}
	st := JobStats{Vertices: len(j.cells)}
	for _, c := range j.cells {
		if c.ran {
			st.Runs++
		} else if c.hit || c.covered {
			st.Hits++
		}
	}
	return st
}

// Close ends the job's builds and lets go of everything it loaded. Work that only this
// job wanted is cancelled. Calls after the first do nothing.
func (j *Job) Close() {
	s := j.s
	s.mu.Lock()
	defer s.unlock()
	if j.closed {
		return
	}
	j.last = j.stats()
	j.closed = true
	s.open--
	if j.opt.NoRuns {
		s.planning--
	}
	for root := range j.roots {
		if root.ended {
			continue
		}
		s.kill(root)
		root.ended, root.valErr = true, ErrClosed
		close(root.end)
	}
	if len(j.roots) > 0 {
		clear(j.roots)
		j.giveUp()
	}
	j.recall()
	for _, c := range j.cells {
		c.leave(j)
	}
	j.loaded, j.cells, j.hits = nil, nil, nil
}

// leave removes a job from c. s.mu is held.
func (c *cell) leave(j *Job) {
	delete(c.spec.failed, j)
	delete(c.guess.failed, j)
	for _, f := range c.answers {
		delete(f.failed, j)
	}
	i := slices.Index(c.jobs, j)
	c.jobs = slices.Delete(c.jobs, i, i+1)
	if len(c.jobs) > 0 {
		return
	}
	// Nobody holds the cell, so none of its flights is running.
	if c.s.cells[c.id] == c {
		delete(c.s.cells, c.id)
	}
	if c.spec.val != nil {
		c.s.discard(c.spec.val)
		c.spec.val = nil
	}
	for _, f := range c.answers {
		if f.val != nil {
			c.s.discard(f.val)
			f.val = nil
		}
	}
}

// load returns the cell for v, and shows v and what it is made from.
func (j *Job) load(v *Vertex) (*cell, error) {
	type shown struct {
		log  *progress.Log
		show progress.Vertex
	}
	var fresh []shown
	err := func() error {
		j.s.mu.Lock()
		defer j.s.unlock()
		if j.closed {
			return ErrClosed
		}
		return j.walk(v, func(v *Vertex, c *cell) {
			if j.opt.Stream != nil && !v.Hidden {
				fresh = append(fresh, shown{c.log, show(v)})
			}
		})
	}()
	if err != nil {
		return nil, err
	}
	for _, f := range fresh {
		j.opt.Stream.Attach(f.log, f.show)
	}
	j.s.mu.Lock()
	defer j.s.mu.Unlock()
	if j.closed {
		return nil, ErrClosed
	}
	return j.loaded[v], nil
}

// show is how v is shown: with the vertices it is made from, if v does not say.
func show(v *Vertex) progress.Vertex {
	sv := v.Show
	if sv.Inputs == nil && len(v.Inputs) > 0 {
		sv.Inputs = make([]digest.Digest, 0, len(v.Inputs))
		for _, in := range v.Inputs {
			if d := in.Vertex.Show.Digest; !in.Vertex.Hidden && !slices.Contains(sv.Inputs, d) {
				sv.Inputs = append(sv.Inputs, d)
			}
		}
	}
	return sv
}

// walk puts v and everything it is made from into j.loaded, inputs first, without
// recursion, and calls added for each that was not there. s.mu is held.
func (j *Job) walk(v *Vertex, added func(*Vertex, *cell)) error {
	type frame struct {
		v    *Vertex
		next int // input to look at
	}
	open := make(map[*Vertex]bool)
	stack := []frame{{v: v}}
	for len(stack) > 0 {
		f := &stack[len(stack)-1]
		if f.next == 0 {
			if f.v == nil || f.v.Op == nil {
				return errors.New("a step of the build has no operation")
			}
			if open[f.v] {
				return errors.New("a step of the build depends on itself")
			}
			if j.loaded[f.v] != nil {
				stack = stack[:len(stack)-1]
				continue
			}
			open[f.v] = true
		}
		if f.next < len(f.v.Inputs) {
			in := f.v.Inputs[f.next].Vertex
			if f.v.Inputs[f.next].Output < 0 {
				return errOutput
			}
			f.next++
			if in == nil || j.loaded[in] == nil {
				stack = append(stack, frame{v: in})
			}
			continue
		}
		stack = stack[:len(stack)-1]
		delete(open, f.v)
		if limit := j.opt.MaxVertices; limit > 0 && len(j.loaded) >= limit {
			return fmt.Errorf("the build has more than %d steps", limit)
		}
		c := j.cell(f.v)
		j.loaded[f.v] = c
		added(f.v, c)
	}
	return nil
}

// cell returns the cell of v, whose inputs are loaded. s.mu is held.
func (j *Job) cell(v *Vertex) *cell {
	s := j.s
	ins := make([]*cell, len(v.Inputs))
	stamped := v.NoCache
	for i, in := range v.Inputs {
		ins[i] = j.loaded[in.Vertex]
		stamped = stamped || ins[i].stamped
	}
	id := v.Def
	if stamped {
		id = stampedDef(id, j.stamp)
	}
	if c := j.cells[id]; c != nil {
		return c
	}
	c := s.cells[id]
	if c == nil || !slices.Equal(c.ins, ins) || c.stale(j) {
		c = s.newCell(id, v, ins)
		c.stamped = stamped
		if v.NoCache {
			c.stamp = j.stamp
		}
		s.cells[id] = c
	}
	c.jobs = append(c.jobs, j)
	j.cells[id] = c
	return c
}

// stale reports whether c is a source that was pinned before j began. On a daemon that
// is never idle a tag would otherwise never be looked up again. What is made from
// equal pins is shared all the same, by key.
func (c *cell) stale(j *Job) bool {
	p, ok := c.spec.val.(*pinned)
	return ok && len(c.ins) == 0 && p.at.Before(j.created)
}
