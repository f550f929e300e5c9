package solver

// A scout is a root of a job that nobody waits for. It starts building an input that c
// reads by content while the rest of c's key is still being found: if no sum of that
// input is remembered it has to be built whatever the rest turns out to be, either for
// its sum, or because c runs. Without scouts a chain of COPYs from stages that are all
// new would build one stage after the other.
//
// Its error is of no interest: whoever needs the input meets it too.

// scout sends one scout for each of c's inputs on behalf of every job that has c. Calls
// after the first for a job do nothing.
func (c *cell) scout() {
	if len(c.ins) < 2 {
		return // predict itself asks for a single input at once
	}
	s := c.s
	var roots []*attempt
	s.mu.Lock()
	for _, j := range c.jobs {
		if j.closed || len(j.roots) == 0 || j.scouted[c] {
			continue
		}
		j.scouted[c] = true
		for i := range c.ins {
			root := &attempt{s: s, job: j, end: make(chan struct{}), busy: true}
			root.f = &flight{fn: func(a *attempt) (any, error) { return c.explore(a, i) }}
			j.scouts[root] = true
			roots = append(roots, root)
		}
	}
	s.addWorkers(len(roots))
	s.mu.Unlock()
	for _, root := range roots {
		go s.work(root)
	}
}

// explored is the value of a scout.
type explored struct{}

// explore is the step of a scout.
func (c *cell) explore(a *attempt, i int) (any, error) {
	if a.subErr != nil {
		return nil, a.subErr
	}
	spec, _ := a.need(&c.spec).(*pinned)
	p, _ := a.need(&c.ins[i].guess).(*prediction)
	if spec == nil || p == nil {
		return nil, errWait
	}
	slot, output := spec.Slots[i], c.v.Inputs[i].Output
	if slot.Content == nil {
		return explored{}, nil
	}
	if p.traced && len(c.tracers(spec)) > 0 {
		return explored{}, nil // a foreign cache may know the step without it
	}
	if p.settled && p.key.Stamp == (Stamp{}) {
		if _, ok := c.recall(OutputID(p.key.ID, output), slot.Part); ok {
			return explored{}, nil
		}
	}
	ans, _ := a.need(c.ins[i].result(output)).(*answer)
	if ans == nil {
		return nil, errWait
	}
	c.s.mu.Lock()
	ans.drop(c.s)
	c.s.unlock()
	return explored{}, nil
}

// recall ends the job's scouts if none of its Builds is under way. s.mu is held.
func (j *Job) recall() {
	if len(j.roots) > 0 {
		return
	}
	for root := range j.scouts {
		if !root.ended {
			j.s.kill(root)
			root.ended, root.valErr = true, ErrClosed
			close(root.end)
		}
	}
	clear(j.scouts)
	clear(j.scouted)
}
