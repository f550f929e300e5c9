package solver

import (
	"context"
	"fmt"
)

// solve is the step that finds or makes one output of c.
func (c *cell) solve(a *attempt, output int) (any, error) {
	m, err := c.gather(a)
	if err != nil {
		return nil, err
	}
	if m.pred == nil {
		p, ok := a.need(&c.guess).(*prediction)
		if !ok {
			return nil, errWait
		}
		m.pred = p
		if p.settled {
			if ans := c.lookup(a, p.key, output); ans != nil {
				return ans, nil
			}
		}
	}

	spec, _ := a.need(&c.spec).(*pinned)
	missing := spec == nil
	for i := range c.ins {
		missing = c.input(a, m, i) == nil || missing
	}
	if missing {
		return nil, errWait
	}
	if m.key == nil {
		key, ok := c.exactKey(a, m, spec)
		if !ok {
			return nil, errWait
		}
		// What was predicted from memory may differ from what is now in hand.
		news := !m.pred.settled || key != m.pred.key
		if news || !m.pred.traced {
			found, wait := c.traceExact(a, m, spec, key)
			if wait {
				return nil, errWait
			}
			news = news || found
		}
		m.key = &key
		if news {
			if ans := c.lookup(a, key, output); ans != nil {
				return ans, nil
			}
		}
	}

	for {
		if m.run == nil {
			if c.barred(a) {
				return nil, c.blame(ErrWouldRun)
			}
			if m.run = c.joinRun(a, m, spec, output); m.run == nil {
				return nil, errWait
			}
		}
		out, ok := a.need(&m.run.flight).(*outcome)
		if !ok {
			return nil, errWait
		}
		c.mark(out.found)
		if output < len(out.refs) && out.refs[output] != nil {
			return newAnswer(*m.key, output, out.refs[output].Retain()), nil
		}
		if !out.found {
			return nil, c.blame(fmt.Errorf("no output %d", output))
		}
		// Somebody had finished the same work, but only another output was still
		// stored. This one may be, too; if not, the work has to be done again.
		if ans := c.lookup(a, *m.key, output); ans != nil {
			return ans, nil
		}
		c.s.mu.Lock()
		m.run.leave(c)
		m.run, m.forced = nil, true
		c.s.unlock()
	}
}

// lookup asks the cache for one output of k.
func (c *cell) lookup(a *attempt, k Key, output int) *answer {
	if k.Stamp != (Stamp{}) {
		return nil
	}
	ref := c.get(a.context(), OutputID(k.ID, output))
	if ref == nil {
		return nil
	}
	c.mark(true)
	ans := newAnswer(k, output, ref)
	if l, ok := ref.(Lazy); ok {
		ans.show = l.ShowIn(c.log)
	}
	return ans
}

// mark records whether an answer of c was found or made, for JobStats and progress.
func (c *cell) mark(found bool) {
	c.s.mu.Lock()
	switch {
	case !found:
		c.ran = true
	case !c.hit:
		c.hit = true
		for _, j := range c.jobs {
			j.hits = append(j.hits, c)
		}
	}
	show := c.hit && !c.ran
	c.s.mu.Unlock()
	if show {
		c.log.Cached()
	}
}

// cover notes what need not be built because something made from it was found. The
// streams show such vertices as cached by themselves, but not sources, which were at
// work to pin what they name: those are shown as cached if they are.
func (j *Job) cover(ctx context.Context) {
	var sources []*cell
	s := j.s
	s.mu.Lock()
	todo := j.hits
	j.hits = nil
	for len(todo) > 0 {
		c := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		for _, in := range c.ins {
			if in.covered || in.hit || in.ran {
				continue
			}
			in.covered = true
			todo = append(todo, in)
			if len(in.ins) == 0 && !in.v.Hidden {
				sources = append(sources, in)
			}
		}
	}
	preds := make([]*prediction, len(sources))
	for i, c := range sources {
		preds[i], _ = c.guess.val.(*prediction)
	}
	s.mu.Unlock()
	if j.opt.Stream == nil {
		return
	}
	for i, c := range sources {
		p := preds[i]
		if p == nil || !p.settled || p.key.Stamp != (Stamp{}) {
			continue
		}
		if ref := c.get(ctx, OutputID(p.key.ID, 0)); ref != nil {
			ref.Release()
			c.log.Cached()
		}
	}
}

// exactKey computes the Key from the inputs in hand, or !ok if the step must wait.
func (c *cell) exactKey(a *attempt, m *gathered, spec *pinned) (_ Key, ok bool) {
	slots := make([][32]byte, len(c.ins))
	stamp := c.stamp
	missing := false
	for i, slot := range spec.Slots {
		if slot.Content == nil {
			k := m.ins[i].key
			slots[i] = keySlot(k.ID, c.v.Inputs[i].Output, slot.Part)
			stamp = stamp.join(k.Stamp)
			continue
		}
		sum, ok := c.sum(a, m, i, slot)
		missing = missing || !ok
		slots[i] = contentSlot(sum)
	}
	if missing {
		return Key{}, false
	}
	c.formed(slots)
	return Key{opID(spec.ID, slots), stamp}, true
}
