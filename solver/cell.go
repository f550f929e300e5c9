package solver

import (
	"errors"
	"fmt"
	"time"

	"github.com/dbuild/dbuild/internal/progress"
)

// A cell is a vertex being solved, for every job that loaded it.
//
// Its flights wait only for each other and for those of the cell's inputs, so waiting
// never goes in a circle.
type cell struct {
	s       *Solver
	id      Def // the vertex's, or one of the job's own if the cache may not be used
	v       *Vertex
	ins     []*cell
	stamp   Stamp // set if the vertex itself may not use the cache
	stamped bool  // it or something it is made from may not
	log     *progress.Log

	spec  flight // *pinned
	guess flight // *prediction

	// Under Solver.mu:
	jobs    []*Job          // that hold the cell
	answers map[int]*flight // *answer, by output
	hit     bool            // an answer was found
	ran     bool            // an answer was made
	began   bool            // its op was asked to run, here or in another cell
	took    time.Duration   // by the run that made the answer; 0 if there was none
	slots   [][32]byte      // that its key was last formed of; not changed
	left    int             // how many jobs gave up while they held it
	covered bool            // none was needed: one of something made from it was found
}

// A pinned is a Spec and when it was known.
type pinned struct {
	Spec
	at   time.Time
	uses int // the cell and its runs; under Solver.mu
}

// drop ends one use. Solver.mu is held.
func (p *pinned) drop(s *Solver) {
	p.uses--
	if r, ok := p.Pin.(Releaser); ok && p.uses == 0 {
		s.trash = append(s.trash, r)
	}
}

// A prediction is the Key a vertex will have. It is unsettled if that cannot be known
// before inputs are built, and it is certain that no answer is stored.
type prediction struct {
	key     Key
	settled bool
	traced  bool // a foreign cache answers under the key
}

func (s *Solver) newCell(id Def, v *Vertex, ins []*cell) *cell {
	c := &cell{s: s, id: id, v: v, ins: ins, log: progress.NewLogLimits(s.limits)}
	c.spec.fn, c.spec.remember = c.pin, true
	c.guess.fn, c.guess.remember = c.predict, true
	return c
}

// result is the flight of one output.
func (c *cell) result(output int) *flight {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	f, ok := c.answers[output]
	if !ok {
		f = &flight{remember: true, fn: func(a *attempt) (any, error) { return c.solve(a, output) }}
		if c.answers == nil {
			c.answers = make(map[int]*flight, 1)
		}
		c.answers[output] = f
	}
	return f
}

// blame says that c's vertex failed, unless another is to blame.
func (c *cell) blame(err error) error {
	var v *VertexError
	if err == nil || errors.As(err, &v) {
		return err
	}
	return &VertexError{Vertex: c.v, Err: err}
}

// pin is the leaf that identifies the op.
func (c *cell) pin(a *attempt) (any, error) {
	done := func(error) {}
	if len(c.ins) == 0 { // a source, which may have to ask far away
		done = c.log.Start()
	}
	spec, err := c.callSpec(a)
	if err == nil && len(spec.Slots) != len(c.ins) {
		err = fmt.Errorf("internal error: %d slots for %d inputs", len(spec.Slots), len(c.ins))
	}
	if err != nil && len(c.ins) > 0 {
		done = c.log.Start()
	}
	done(err)
	if err != nil {
		return nil, c.blame(err)
	}
	return &pinned{Spec: spec, at: time.Now(), uses: 1}, nil
}

func (c *cell) callSpec(a *attempt) (spec Spec, err error) {
	ctx := a.context()
	defer recovered(&err)
	return c.v.Op.Spec(ctx, &demand{c.s, &users{cells: []*cell{c}}, c.log})
}

// predict is the step that computes the Key of c's outputs, building only what it must.
func (c *cell) predict(a *attempt) (any, error) {
	m, err := c.gather(a)
	if err != nil {
		return nil, err
	}
	if !m.scouted {
		m.scouted = true
		c.scout()
	}
	spec, _ := a.need(&c.spec).(*pinned)
	preds := make([]*prediction, len(c.ins))
	missing := spec == nil
	for i, in := range c.ins {
		preds[i], _ = a.need(&in.guess).(*prediction)
		missing = missing || preds[i] == nil
	}
	if missing {
		return nil, errWait
	}

	// Fill every slot that needs no result.
	slots := make([][32]byte, len(c.ins))
	var open []int
	var keyed []ID
	stamp := c.stamp
	for i, slot := range spec.Slots {
		p, output := preds[i], c.v.Inputs[i].Output
		if slot.Content == nil {
			if !p.settled {
				return &prediction{}, nil // what c reads is new: so is c
			}
			stamp = stamp.join(p.key.Stamp)
			slots[i] = keySlot(p.key.ID, output, slot.Part)
			keyed = append(keyed, OutputID(p.key.ID, output))
			continue
		}
		if p.settled && p.key.Stamp == (Stamp{}) {
			if sum, ok := c.recall(OutputID(p.key.ID, output), slot.Part); ok {
				slots[i] = contentSlot(sum)
				continue
			}
		}
		open = append(open, i)
	}
	if stamp == (Stamp{}) {
		if tracers := c.tracers(spec); len(tracers) > 0 {
			return c.predictTraced(a, m, spec, tracers, preds, slots, open, keyed)
		}
	}
	if len(open) == 0 {
		c.formed(slots)
		return &prediction{key: Key{opID(spec.ID, slots), stamp}, settled: true}, nil
	}

	// A stored answer needs every input read by key to have been seen by whoever
	// stored it. Only then is it cheaper to build what decides than to build all.
	if stamp != (Stamp{}) || !c.hopeful(a, m, keyed) {
		return &prediction{}, nil
	}
	for _, i := range open {
		sum, ok := c.sum(a, m, i, spec.Slots[i])
		missing = missing || !ok
		slots[i] = contentSlot(sum)
	}
	if missing {
		return nil, errWait
	}
	c.formed(slots)
	return &prediction{key: Key{opID(spec.ID, slots), stamp}, settled: true}, nil
}

// hopeful reports whether an answer may be stored: whether the inputs that are read by key
// were ever seen.
func (c *cell) hopeful(a *attempt, m *gathered, keyed []ID) bool {
	if m.hopeful {
		return true // need not be asked again
	}
	ctx := a.context()
	for _, out := range keyed {
		if !c.known(ctx, out) {
			return false
		}
	}
	m.hopeful = true
	return true
}

// maxRewinds is how often, for each input, a step starts over because what the cache
// promised was lost. The producer may find its own inputs lost in turn, and rewinds
// for itself.
const maxRewinds = 3

// gathered is what predict and solve keep between calls. They own the holds on ins and
// their places in works and run.
type gathered struct {
	c       *cell
	ins     []*answer // by input; nil if not there yet
	sums    []*Sum    // by input; nil if not known yet
	works   []*summing
	foreign []*summing // by input; sums of another solver's kind
	run     *run
	rewinds int

	scouted bool        // predict: scouts were sent
	hopeful bool        // predict: an answer may be stored
	pred    *prediction // solve: what was predicted, and looked up
	key     *Key        // solve: exact, and looked up
	forced  bool        // solve: a run that did not make all outputs does not count
}

// gather returns what the step has gathered so far. If something it needs failed, it
// returns the error, unless that can be helped by starting over.
func (c *cell) gather(a *attempt) (*gathered, error) {
	m, _ := a.mem.(*gathered)
	if m == nil {
		m = &gathered{c: c}
		c.s.mu.Lock()
		a.mem = m
		c.s.mu.Unlock()
	}
	if a.subErr == nil || c.rewind(m, a.subErr) {
		return m, nil
	}
	err := c.blame(a.subErr)
	if err != a.subErr && (m.run == nil || !lasting(err)) { // else the run has shown it
		c.log.Start()(a.subErr)
	}
	return nil, err
}

// drop lets go of everything. s.mu is held.
func (m *gathered) drop(s *Solver) {
	for _, ans := range m.ins {
		if ans != nil {
			ans.drop(s)
		}
	}
	for _, w := range append(m.works, m.foreign...) {
		if w != nil {
			w.leave(m.c)
		}
	}
	if m.run != nil {
		m.run.leave(m.c)
	}
	m.ins, m.sums, m.works, m.foreign, m.run, m.key = nil, nil, nil, nil, nil, nil
}

// input returns the answer of input i, or nil if the step must wait.
func (c *cell) input(a *attempt, m *gathered, i int) *answer {
	if m.ins == nil {
		m.ins = make([]*answer, len(c.ins))
	}
	if m.ins[i] == nil {
		m.ins[i], _ = a.need(c.ins[i].result(c.v.Inputs[i].Output)).(*answer)
	}
	return m.ins[i]
}

// sum returns the content of the part of input i that slot reads, or !ok if the step
// must wait.
func (c *cell) sum(a *attempt, m *gathered, i int, slot Slot) (_ Sum, ok bool) {
	ans := c.input(a, m, i)
	if ans == nil {
		return Sum{}, false
	}
	if m.sums == nil {
		m.sums = make([]*Sum, len(c.ins))
		m.works = make([]*summing, len(c.ins))
	}
	if m.sums[i] == nil && m.works[i] == nil {
		// A remembered sum is good for the very ref it was computed from only.
		if sum, id, ok := c.s.cache.Sum(ans.out, slot.Part); ok && id == ans.id {
			m.sums[i] = &sum
		} else {
			m.works[i] = c.joinSum(ans, slot, false)
		}
	}
	if m.sums[i] == nil {
		m.sums[i], _ = a.need(&m.works[i].flight).(*Sum)
	}
	if m.sums[i] == nil {
		return Sum{}, false
	}
	return *m.sums[i], true
}

// rewind reports whether err is about something lost that can be made again, and
// makes m and the solver forget it.
func (c *cell) rewind(m *gathered, err error) bool {
	var v *VertexError
	var lost *LostError
	if errors.As(err, &v) || !errors.As(err, &lost) || lost.Ref == nil || m.rewinds >= maxRewinds*len(c.ins) {
		return false
	}
	id, found := lost.Ref.ID(), false
	for i, ans := range m.ins {
		if ans != nil && ans.id == id {
			c.ins[i].unlearn(c.v.Inputs[i].Output, ans)
			found = true
		}
	}
	if m.run != nil { // it may have been another cell's, with inputs of its own
		for _, ans := range m.run.ins {
			found = found || ans.id == id
		}
	}
	if !found {
		return false
	}
	m.rewinds++
	c.s.mu.Lock()
	defer c.s.unlock()
	m.drop(c.s)
	return true
}

// unlearn makes the solver and the cache forget lost, if it is what c holds.
func (c *cell) unlearn(output int, lost *answer) {
	f := c.result(output)
	c.s.mu.Lock()
	if ans, ok := f.val.(*answer); ok && ans.id == lost.id {
		f.val = nil
		ans.drop(c.s)
	}
	c.s.unlock()
	c.forget(lost.out, lost.ref)
}
