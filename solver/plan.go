package solver

import (
	"context"
	"errors"
)

// ErrWouldRun is what a job with NoRuns gets instead of the result of a step that is not
// remembered.
var ErrWouldRun = errors.New("the step would have to be run, which this build may not")

// Plan predicts what Build of edges would find, and make. Nothing is run but sources: all
// are looked up, and those that fetch agrees to are read if a key depends on what is in
// them. In the Fates that it returns, Made means that a step would be run.
//
// What a step would make is not known, so what is made from the content of that is
// Unknown, and so is what is made from it in turn. Answers of a Foreign cache are not
// predicted.
func (j *Job) Plan(ctx context.Context, fetch func(*Vertex) bool, edges ...Edge) (map[*Vertex]Fate, error) {
	p := &planner{j: j, fetch: fetch, fates: map[*Vertex]Fate{}, outputs: map[*Vertex]map[int]bool{}}
	for _, e := range edges {
		if e.Vertex == nil {
			continue
		}
		if _, err := j.load(e.Vertex); err != nil {
			return nil, err
		}
		p.order(e.Vertex)
		p.reads(e)
	}
	for _, v := range p.list {
		for _, e := range v.Inputs {
			p.reads(e)
		}
	}
	if err := p.pin(ctx); err != nil {
		return nil, err
	}
	for _, v := range p.list {
		if err := p.look(ctx, v); err != nil {
			return nil, err
		}
	}
	p.cover(edges)
	return p.fates, nil
}

// planner makes one plan.
type planner struct {
	j       *Job
	fetch   func(*Vertex) bool
	list    []*Vertex // inputs before their readers
	fates   map[*Vertex]Fate
	outputs map[*Vertex]map[int]bool // that are read
}

func (p *planner) reads(e Edge) {
	if p.outputs[e.Vertex] == nil {
		p.outputs[e.Vertex] = map[int]bool{}
	}
	p.outputs[e.Vertex][e.Output] = true
}

// order appends v and what it is made from to the list. It was loaded, so it has no cycles.
func (p *planner) order(v *Vertex) {
	type frame struct {
		v    *Vertex
		next int
	}
	for stack := []frame{{v: v}}; len(stack) > 0; {
		f := &stack[len(stack)-1]
		if _, seen := p.fates[f.v]; seen {
			stack = stack[:len(stack)-1]
			continue
		}
		if f.next < len(f.v.Inputs) {
			f.next++
			stack = append(stack, frame{v: f.v.Inputs[f.next-1].Vertex})
			continue
		}
		p.fates[f.v] = Fate{}
		p.list = append(p.list, f.v)
		stack = stack[:len(stack)-1]
	}
}

// pin has every op say what it is, at the same time.
func (p *planner) pin(ctx context.Context) error {
	s := p.j.s
	s.mu.Lock()
	if p.j.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	var cells []*cell
	for _, v := range p.list {
		cells = append(cells, p.j.loaded[v])
	}
	s.mu.Unlock()
	_, err := p.j.await(ctx, func(a *attempt) (any, error) {
		waiting := false
		for _, c := range cells {
			waiting = a.need(&c.spec) == nil || waiting
		}
		if waiting {
			return nil, errWait
		}
		return true, nil
	})
	return err
}

// look finds out about v, whose inputs are known.
func (p *planner) look(ctx context.Context, v *Vertex) error {
	p.j.s.mu.Lock()
	c := p.j.loaded[v]
	var spec *pinned
	if c != nil {
		spec, _ = c.spec.val.(*pinned)
	}
	p.j.s.mu.Unlock()
	if spec == nil {
		return ErrClosed
	}
	f := Fate{Spec: spec.ID, NoCache: c.stamp != (Stamp{}), Stamped: c.stamped}
	slots := make([][32]byte, len(v.Inputs))
	for i, e := range v.Inputs {
		in := p.fates[e.Vertex]
		slot := spec.Slots[i]
		if slot.Content == nil {
			f.Unknown = f.Unknown || in.Unknown
			slots[i] = keySlot(in.Key, e.Output, slot.Part)
			continue
		}
		sum, ok, err := p.sum(ctx, c, e, slot, in)
		if err != nil {
			return err
		}
		slots[i] = contentSlot(sum)
		f.Unknown = f.Unknown || !ok
	}
	switch {
	case f.Unknown:
		f.Made = f.Stamped // certainly
		f.Unknown = !f.Made
	default:
		f.Key, f.Slots = opID(spec.ID, slots), slots
		f.Found = !f.Stamped && p.stored(ctx, c, f.Key, p.outputs[v])
		f.Made = !f.Found
	}
	p.fates[v] = f
	return ctx.Err()
}

// stored reports whether all outputs of an answer are there.
func (p *planner) stored(ctx context.Context, c *cell, key ID, outputs map[int]bool) bool {
	for output := range outputs {
		ref := c.get(ctx, OutputID(key, output))
		if ref == nil {
			return false
		}
		ref.Release()
	}
	return true
}

// sum is the content that slot reads of e, or ok false if it cannot be known yet.
func (p *planner) sum(ctx context.Context, c *cell, e Edge, slot Slot, in Fate) (_ Sum, ok bool, _ error) {
	if in.Key != (ID{}) && !in.Stamped {
		if sum, ok := c.recall(OutputID(in.Key, e.Output), slot.Part); ok {
			return sum, true, nil
		}
	}
	if len(e.Vertex.Inputs) > 0 || !p.fetch(e.Vertex) {
		return Sum{}, false, nil
	}
	r, err := p.j.Build(ctx, e)
	if err != nil {
		return Sum{}, false, err
	}
	defer r.Ref.Release()
	sum, err := func() (sum Sum, err error) {
		defer recovered(&err)
		return slot.Content(ctx, &demand{p.j.s, &users{cells: []*cell{c}}, c.log}, r.Ref)
	}()
	if err != nil {
		return Sum{}, false, c.blame(err)
	}
	return sum, true, nil
}

// cover notes what need not be built because something made from it was found.
func (p *planner) cover(edges []Edge) {
	needed := map[*Vertex]bool{}
	for _, e := range edges {
		needed[e.Vertex] = true
	}
	for i := len(p.list) - 1; i >= 0; i-- {
		v := p.list[i]
		f := p.fates[v]
		switch {
		case !needed[v]:
			f.Covered, f.Found, f.Made, f.Unknown = true, false, false, false
			p.fates[v] = f
		case !f.Found:
			for _, e := range v.Inputs {
				needed[e.Vertex] = true
			}
		}
	}
}

// await runs a step for the job and returns its value.
func (j *Job) await(ctx context.Context, fn func(*attempt) (any, error)) (any, error) {
	s := j.s
	root := &attempt{s: s, job: j, end: make(chan struct{}), busy: true}
	root.f = &flight{fn: func(a *attempt) (any, error) {
		if a.subErr != nil {
			return nil, a.subErr
		}
		return fn(a)
	}}
	s.mu.Lock()
	if j.closed {
		s.mu.Unlock()
		return nil, ErrClosed
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
	if !root.ended {
		if !root.dead {
			s.kill(root)
		}
		root.valErr = context.Cause(ctx)
	}
	return root.val, root.valErr
}

// barred reports whether c may not be run: all who wait for a are jobs with NoRuns.
func (c *cell) barred(a *attempt) bool {
	if len(c.ins) == 0 {
		return false
	}
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	if c.s.planning == 0 {
		return false
	}
	for _, j := range a.jobs() {
		if !j.opt.NoRuns {
			return false
		}
	}
	return true
}
