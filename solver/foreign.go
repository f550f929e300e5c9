package solver

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"
)

// A Foreign cache knows answers by names that another solver gave them. Such a name follows
// from the op, from the names of its inputs, and from sums of the other solver's kind. So
// before a Foreign cache is asked for what a step makes, it is told how the step came to
// its key; from then on it answers under that key, like any Cache.
//
// The names need less than keys do: a step whose inputs have foreign names has one, even
// if what it reads of them is not here and was never summed. Then the cache supplies a sum
// that stands for the unknown one. It guides look-ups, as remembered sums do; when the
// input has to be read after all, the exact key is computed from what is really there.
type Foreign interface {
	Cache
	Namer
}

// A Namer knows names that another solver gives to answers.
type Namer interface {
	// Trace returns what finds the foreign name of a step. It is ok false if the step has
	// none, or, of a cache, if nothing like it is remembered.
	Trace(Op, Spec) (_ Tracer, ok bool)
}

// A Tracer finds the foreign name of one step.
type Tracer interface {
	// Content returns how the other solver digests input i, or ok false if it does not.
	// That the content is not here is an error, and does no harm.
	Content(i int) (_ Slot, ok bool)
	// Match finds what is remembered of the step when it is made from these inputs.
	Match([]Traced) (_ Match, ok bool)
}

// Traced is what is known of an input.
type Traced struct {
	ID  ID   // of the output; zero if it has none yet
	Sum *Sum // of its content, as the other solver digests it; nil if not known
}

// A Match is what is remembered of a step.
type Match interface {
	// Sum stands for the content of a part of input i.
	Sum(i int, part Part) Sum
	// Bind says under which key the step is asked for.
	Bind(key ID)
}

// tracers asks the foreign caches among those that jobs brought along. Usually there is
// none.
func (c *cell) tracers(spec *pinned) []Tracer {
	var out []Tracer
	for _, cache := range c.brought() {
		if f, ok := cache.(Foreign); ok {
			if t, ok := f.Trace(c.v.Op, spec.Spec); ok {
				out = append(out, t)
			}
		}
	}
	return out
}

// match asks tracers.
func match(tracers []Tracer, from []Traced) []Match {
	var out []Match
	for _, t := range tracers {
		if m, ok := t.Match(from); ok {
			out = append(out, m)
		}
	}
	return out
}

func bind(matches []Match, key ID) {
	for _, m := range matches {
		m.Bind(key)
	}
}

// foreignSum returns the foreign sum of input i, if it has one: zero if it cannot be had,
// or !ok if the step must wait.
func (c *cell) foreignSum(a *attempt, m *gathered, i int, tracers []Tracer) (_ *Sum, ok bool) {
	var slot Slot
	found := false
	for _, t := range tracers {
		if slot, found = t.Content(i); found {
			break
		}
	}
	if !found {
		return nil, true
	}
	ans := c.input(a, m, i)
	if ans == nil {
		return nil, false
	}
	if m.foreign == nil {
		m.foreign = make([]*summing, len(c.ins))
	}
	if m.foreign[i] == nil {
		if sum, id, ok := c.s.cache.Sum(ans.out, slot.Part); ok && id == ans.id {
			return &sum, true
		}
		m.foreign[i] = c.joinSum(ans, slot, true)
	}
	sum, _ := a.need(&m.foreign[i].flight).(*Sum)
	if sum == nil {
		return nil, false
	}
	if *sum == (Sum{}) {
		return nil, true
	}
	return sum, true
}

// recalled fills in the foreign sums that are remembered, of the same content as the sums
// that keys are made of.
func (c *cell) recalled(from []Traced, spec *pinned, tracers []Tracer) {
	for i := range from {
		if from[i].ID == (ID{}) {
			continue
		}
		for _, t := range tracers {
			if slot, ok := t.Content(i); ok {
				from[i].Sum = c.s.twin(from[i].ID, spec.Slots[i].Part, slot.Part)
				break
			}
		}
	}
}

// twin returns the remembered foreign sum of an output that was computed from the same Ref
// as the remembered sum, or nil.
func (s *Solver) twin(id ID, part, foreign Part) *Sum {
	_, ref, ok := s.cache.Sum(id, part)
	if !ok || ref == "" {
		return nil
	}
	if sum, of, ok := s.cache.Sum(id, foreign); ok && of == ref {
		return &sum
	}
	return nil
}

// traceExact finds the foreign name of the step with an exact key and all inputs in hand.
// wait says that it must be called again.
func (c *cell) traceExact(a *attempt, m *gathered, spec *pinned, key Key) (found, wait bool) {
	if key.Stamp != (Stamp{}) {
		return false, false
	}
	tracers := c.tracers(spec)
	if len(tracers) == 0 {
		return false, false
	}
	from := make([]Traced, len(c.ins))
	for i := range c.ins {
		from[i].ID = m.ins[i].out
		sum, ok := c.foreignSum(a, m, i, tracers)
		wait = wait || !ok
		from[i].Sum = sum
	}
	if wait {
		return false, true
	}
	matches := match(tracers, from)
	bind(matches, key.ID)
	return len(matches) > 0, false
}

// predictTraced is the end of predict for a step that a foreign cache may know. open are
// the inputs whose slots are not filled yet, keyed what is read by key.
func (c *cell) predictTraced(a *attempt, m *gathered, spec *pinned, tracers []Tracer, preds []*prediction, slots [][32]byte, open []int, keyed []ID) (any, error) {
	from := make([]Traced, len(c.ins))
	for i, p := range preds {
		if p.settled && p.key.Stamp == (Stamp{}) {
			from[i].ID = OutputID(p.key.ID, c.v.Inputs[i].Output)
		}
	}
	c.recalled(from, spec, tracers)
	settle := func(matches []Match) (any, error) {
		key := opID(spec.ID, slots)
		c.formed(slots)
		bind(matches, key)
		return &prediction{key: Key{ID: key}, settled: true, traced: len(matches) > 0}, nil
	}
	matches := match(tracers, from)
	if len(matches) == 0 && len(open) == 0 && c.known(a.context(), OutputID(opID(spec.ID, slots), 0)) {
		return settle(nil)
	}

	// What comes from a directory of the client has no name, only sums. Sources are read
	// before other inputs are built, as those may turn out to be known by name.
	missing := false
	sum := func(i int) {
		s, ok := c.sum(a, m, i, spec.Slots[i])
		if ok {
			slots[i] = contentSlot(s)
			from[i].Sum, ok = c.foreignSum(a, m, i, tracers)
		}
		missing = missing || !ok
	}
	if len(matches) == 0 && c.hopeful(a, m, keyed) {
		var later []int
		for i, slot := range spec.Slots {
			switch {
			case slot.Content == nil:
			case len(c.ins[i].ins) > 0:
				if slices.Contains(open, i) {
					later = append(later, i)
				}
			case slices.Contains(open, i):
				sum(i)
			case from[i].Sum == nil:
				s, ok := c.foreignSum(a, m, i, tracers)
				from[i].Sum, missing = s, missing || !ok
			}
		}
		if missing {
			return nil, errWait
		}
		open = later
		matches = match(tracers, from)
	}
	if len(matches) > 0 {
		for _, i := range open {
			part := spec.Slots[i].Part
			s := matches[0].Sum(i, part)
			c.s.cache.PutSum(from[i].ID, part, s, "")
			slots[i] = contentSlot(s)
		}
		return settle(matches)
	}
	if len(open) == 0 {
		return settle(nil)
	}
	if !c.hopeful(a, m, keyed) {
		return &prediction{}, nil
	}
	for _, i := range open {
		sum(i)
	}
	if missing {
		return nil, errWait
	}
	return settle(match(tracers, from))
}

// ForeignSums fills in the foreign sums of what entries, which are those of Job.Entries,
// read by content, as far as that content is here. foreign knows which there are.
func (j *Job) ForeignSums(ctx context.Context, foreign Namer, entries []Entry) error {
	refs := make(map[ID]Ref, len(entries))
	named := make(map[ID]bool, len(entries))
	for _, e := range entries {
		refs[e.ID] = e.Ref
		for _, w := range e.Ways {
			_, ok := foreign.Trace(w.Op, w.Spec)
			named[e.ID] = named[e.ID] || ok
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, e := range entries {
		for _, w := range e.Ways {
			if len(w.Inputs) == 0 {
				continue
			}
			t, ok := foreign.Trace(w.Op, w.Spec)
			if !ok {
				continue
			}
			for i := range w.Inputs {
				slot, ok := t.Content(i)
				if !ok || w.Spec.Slots[i].Content == nil {
					continue
				}
				g.Go(func() error {
					id := w.Inputs[i].ID
					w.Inputs[i].Sum = j.foreignSum(ctx, w, i, slot, refs[id], named[id])
					return ctx.Err()
				})
			}
		}
	}
	return g.Wait()
}

// foreignSum returns the foreign sum of what a step reads of input i, which is ref, or nil.
// It is that of the very content that the step's key is about, or none. An input that has
// no name of its own is known by sums only; then it is worth fetching.
func (j *Job) foreignSum(ctx context.Context, of Way, i int, slot Slot, ref Ref, named bool) *Sum {
	id, e := of.Inputs[i].ID, of.edges[i]
	if id == (ID{}) {
		return nil
	}
	if sum := j.s.twin(id, of.Spec.Slots[i].Part, slot.Part); sum != nil {
		return sum
	}
	leaf := len(e.Vertex.Inputs) == 0
	if _, from, ok := j.s.cache.Sum(id, of.Spec.Slots[i].Part); !leaf && (!ok || ref == nil || from != ref.ID()) {
		return nil
	}
	if ref == nil {
		if named {
			return nil
		}
		r, err := j.Build(ctx, e)
		if err != nil {
			return nil
		}
		defer r.Ref.Release()
		ref = r.Ref
	}
	j.s.mu.Lock()
	c := j.loaded[e.Vertex]
	j.s.mu.Unlock()
	if c == nil {
		return nil
	}
	sum, err := func() (sum Sum, err error) {
		defer recovered(&err)
		return slot.Content(ctx, &demand{j.s, &users{cells: []*cell{c}}, c.log}, ref)
	}()
	if err != nil {
		return nil
	}
	j.s.cache.PutSum(id, slot.Part, sum, ref.ID())
	return &sum
}
