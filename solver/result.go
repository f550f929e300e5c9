package solver

import "fmt"

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
		m.key = &key
		// What was predicted from memory may differ from what is now in hand.
		if !m.pred.settled || key != m.pred.key {
			if ans := c.lookup(a, key, output); ans != nil {
				return ans, nil
			}
		}
	}

	for {
		if m.run == nil {
			m.run = c.joinRun(m, spec, output)
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
	ref, _, err := c.s.cache.Get(a.context(), OutputID(k.ID, output))
	if ref == nil {
		return nil
	}
	if err != nil {
		ref.Release()
		return nil
	}
	c.mark(true)
	return newAnswer(k, output, ref)
}

// mark records whether an answer of c was found or made, for Stats and progress.
func (c *cell) mark(found bool) {
	c.s.mu.Lock()
	if found {
		c.hit = true
	} else {
		c.ran = true
	}
	show := c.hit && !c.ran
	c.s.mu.Unlock()
	if show {
		c.log.Cached()
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
	return Key{opID(spec.ID, slots), stamp}, !missing
}
