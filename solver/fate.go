package solver

import "time"

// A Fate is what became of a vertex in a job.
type Fate struct {
	Found   bool // an answer was found
	Made    bool // the op ran, whether it succeeded or not
	Covered bool // it was not needed: something made from it was found
	Unknown bool // of a Plan: it depends on what would be made
	// NoCache says that the vertex was not to be looked up, Stamped that it or what it is
	// made from was not.
	NoCache, Stamped bool

	Took  time.Duration // by the run that made it; 0 if there was none
	Spec  ID            // zero if the op did not say what it is
	Key   ID            // of the answers; zero if it is not known
	Slots [][32]byte
	Refs  []Ref // of the answers at hand, by output; they belong to the caller
}

// Fate returns what became of v, or ok false if the job did not load it.
func (j *Job) Fate(v *Vertex) (_ Fate, ok bool) {
	j.s.mu.Lock()
	defer j.s.mu.Unlock()
	c := j.loaded[v]
	if c == nil {
		return Fate{}, false
	}
	f := Fate{
		Found: c.hit, Made: c.ran || c.began && !c.hit, Covered: c.covered,
		NoCache: c.stamp != (Stamp{}), Stamped: c.stamped, Took: c.took, Slots: c.slots,
	}
	if p, ok := c.spec.val.(*pinned); ok {
		f.Spec = p.ID
	}
	if key, ok := c.keyInHand(); ok {
		f.Key = key.ID
	} else if c.slots != nil && f.Spec != (ID{}) { // it failed
		f.Key = opID(f.Spec, c.slots)
	}
	for output, fl := range c.answers {
		if ans, ok := fl.val.(*answer); ok {
			for len(f.Refs) <= output {
				f.Refs = append(f.Refs, nil)
			}
			f.Refs[output] = ans.ref
		}
	}
	for i, ref := range f.Refs {
		if ref != nil {
			f.Refs[i] = ref.Retain()
		}
	}
	return f, true
}

// formed notes how the key of c was formed.
func (c *cell) formed(slots [][32]byte) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.slots = slots
}
