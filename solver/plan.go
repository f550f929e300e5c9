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
// Unknown, and so is what is made from it in turn, unless a Foreign cache knows the step by
// how that is made.
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
	var open []int // read by a content that is not known
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
		if !ok {
			open = append(open, i)
		}
	}
	if !f.Unknown && !f.Stamped {
		var err error
		if open, err = p.trace(ctx, c, spec, slots, open); err != nil {
			return err
		}
	}
	f.Unknown = f.Unknown || len(open) > 0
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
	if !p.readable(e) {
		return Sum{}, false, nil
	}
	r, err := p.j.Build(ctx, e)
	if err != nil {
		return Sum{}, false, err
	}
	defer r.Ref.Release()
	sum, err := p.read(ctx, c, slot, r.Ref)
	if err != nil {
		return Sum{}, false, c.blame(err)
	}
	return sum, true, nil
}

// readable reports whether e may be fetched.
func (p *planner) readable(e Edge) bool { return len(e.Vertex.Inputs) == 0 && p.fetch(e.Vertex) }

func (p *planner) read(ctx context.Context, c *cell, slot Slot, ref Ref) (sum Sum, err error) {
	defer recovered(&err)
	return slot.Content(ctx, &demand{p.j.s, &users{cells: []*cell{c}}, c.log}, ref)
}

// trace asks the foreign caches for c, as predictTraced does. If one of them knows it, the
// slots that are open are filled with what stands for their content.
func (p *planner) trace(ctx context.Context, c *cell, spec *pinned, slots [][32]byte, open []int) (still []int, err error) {
	tracers := c.tracers(spec)
	if len(tracers) == 0 {
		return open, nil
	}
	from := make([]Traced, len(c.ins))
	for i, e := range c.v.Inputs {
		if in := p.fates[e.Vertex]; in.Key != (ID{}) && !in.Stamped {
			from[i].ID = OutputID(in.Key, e.Output)
		}
	}
	c.recalled(from, spec, tracers)
	matches := match(tracers, from)
	if len(matches) == 0 && (len(open) > 0 || !c.known(ctx, OutputID(opID(spec.ID, slots), 0))) {
		for i := range from {
			if from[i].Sum != nil {
				continue
			}
			if from[i].Sum, err = p.foreignSum(ctx, c, i, tracers); err != nil {
				return nil, err
			}
		}
		matches = match(tracers, from)
	}
	if len(matches) == 0 {
		return open, nil
	}
	for _, i := range open {
		part := spec.Slots[i].Part
		sum := matches[0].Sum(i, part)
		if from[i].ID != (ID{}) {
			c.s.cache.PutSum(from[i].ID, part, sum, "")
		}
		slots[i] = contentSlot(sum)
	}
	bind(matches, opID(spec.ID, slots))
	return nil, nil
}

// foreignSum is the foreign sum of input i, if that may be fetched and has one.
func (p *planner) foreignSum(ctx context.Context, c *cell, i int, tracers []Tracer) (*Sum, error) {
	e := c.v.Inputs[i]
	if !p.readable(e) {
		return nil, nil
	}
	for _, t := range tracers {
		slot, ok := t.Content(i)
		if !ok {
			continue
		}
		r, err := p.j.Build(ctx, e)
		if err != nil {
			return nil, err
		}
		defer r.Ref.Release()
		sum, err := p.read(ctx, c, slot, r.Ref)
		if err != nil {
			return nil, ctx.Err() // without a sum it is not found, no more
		}
		return &sum, nil
	}
	return nil, nil
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
