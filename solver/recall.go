package solver

import (
	"context"
	"slices"
)

// What is remembered is asked of the solver's own Cache first, then of those that the
// jobs brought along. What such a cache answers is remembered here, too: the next build
// may come without it.

// brought returns the caches of the jobs that hold c.
func (c *cell) brought() []Cache {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	var out []Cache
	for _, j := range c.jobs {
		if j.opt.Cache != nil {
			out = append(out, j.opt.Cache)
		}
	}
	return out
}

// A Checker is a job's Cache that knows of the results of any Cache whether they can still
// be had.
type Checker interface {
	// Check reports whether a Ref that was found is good. If not, it is a miss, and the
	// Cache that it was found in is told to drop it.
	Check(context.Context, Ref) bool
}

// get returns the Ref stored under out, or nil.
func (c *cell) get(ctx context.Context, out ID) Ref {
	brought := c.brought()
	return c.s.get(ctx, out, brought, func(ref Ref) bool { return good(ctx, ref, brought) })
}

// good asks whoever knows whether a Ref can still be had.
func good(ctx context.Context, ref Ref, brought []Cache) bool {
	for _, cache := range brought {
		if checker, ok := cache.(Checker); ok {
			return checker.Check(ctx, ref) // one is enough
		}
	}
	return true
}

func (s *Solver) get(ctx context.Context, out ID, brought []Cache, good func(Ref) bool) Ref {
	if ref := stored(ctx, s.cache, out, good); ref != nil {
		return ref
	}
	for _, cache := range brought {
		if ref := stored(ctx, cache, out, good); ref != nil {
			s.cache.Put(out, ref)
			return ref
		}
	}
	return nil
}

// stored asks one cache. Its errors are misses.
func stored(ctx context.Context, cache Cache, out ID, good func(Ref) bool) Ref {
	ref, _, err := cache.Get(ctx, out)
	if ref == nil || err == nil && good(ref) {
		return ref
	}
	if err == nil && ctx.Err() == nil {
		cache.Drop(out, ref)
	}
	ref.Release()
	return nil
}

// known reports whether an output was ever seen.
func (c *cell) known(ctx context.Context, out ID) bool {
	if knows(ctx, c.s.cache, out) {
		return true
	}
	for _, cache := range c.brought() {
		if knows(ctx, cache, out) {
			c.s.cache.Put(out, nil)
			return true
		}
	}
	return false
}

func knows(ctx context.Context, cache Cache, out ID) bool {
	if k, ok := cache.(Knower); ok {
		return k.Known(out)
	}
	ref, known, err := cache.Get(ctx, out)
	if ref != nil {
		ref.Release()
	}
	return err == nil && (known || ref != nil)
}

// recall returns the remembered sum of a part of an output, for a look-up.
func (c *cell) recall(out ID, part Part) (Sum, bool) {
	return c.s.recall(out, part, c.brought())
}

func (s *Solver) recall(out ID, part Part, brought []Cache) (Sum, bool) {
	if sum, _, ok := s.cache.Sum(out, part); ok {
		return sum, true
	}
	for _, cache := range brought {
		if sum, ref, ok := cache.Sum(out, part); ok {
			s.cache.PutSum(out, part, sum, ref)
			return sum, true
		}
	}
	return Sum{}, false
}

// forget makes every cache forget that ref is stored under out.
func (c *cell) forget(out ID, ref Ref) {
	c.s.cache.Drop(out, ref)
	for _, cache := range c.brought() {
		cache.Drop(out, ref)
	}
}

// An Entry is what is remembered of one output of a vertex: its name, the Ref if there
// is one, and the sums of the parts of it that the build read.
type Entry struct {
	ID   ID
	Ref  Ref  // belongs to the caller; nil if none is at hand
	Leaf bool // of a vertex without inputs
	Sums []PartSum
	From []ID // what it was made from and is in the list before it
	// Ways are how it is made, for caches that name answers in another way: see Foreign.
	// Several definitions may have the same meaning here, and not there.
	Ways []Way
}

// A Way is how an output is made. Sums of Inputs are not filled in: see Job.ForeignSums.
type Way struct {
	Op     Op
	Spec   Spec
	Output int
	Inputs []Traced

	edges []Edge // by input
}

// A PartSum is the content of a part.
type PartSum struct {
	Part Part
	Sum  Sum
}

// Entries returns what is remembered of what these edges are made from, and of
// themselves, which come last: everything a Cache elsewhere needs to find the same
// answers. Vertices whose key was never found out are not in it.
func (j *Job) Entries(ctx context.Context, edges ...Edge) []Entry {
	found, brought := j.survey(edges)
	out := make([]Entry, 0, len(found))
	for _, f := range found {
		e := Entry{ID: f.out, Leaf: f.leaf, From: f.from, Ways: f.ways}
		if f.ans != nil {
			e.Ref = f.ans.ref.Retain()
		} else {
			// Unchecked: whoever carries it elsewhere finds out.
			e.Ref = j.s.get(ctx, f.out, brought, func(Ref) bool { return true })
		}
		for _, part := range f.parts {
			if sum, ok := j.s.recall(f.out, part, brought); ok {
				e.Sums = append(e.Sums, PartSum{part, sum})
			}
		}
		out = append(out, e)
	}
	j.s.mu.Lock()
	defer j.s.unlock()
	for _, f := range found {
		if f.ans != nil {
			f.ans.drop(j.s)
		}
	}
	return out
}

// A finding is an output with a name, before caches are asked about it.
type finding struct {
	out   ID
	leaf  bool
	ans   *answer // held; nil if the job has none
	parts []Part  // that are read by content
	from  []ID
	ways  []Way
}

// survey walks from edges down, inputs first, and names what it finds.
func (j *Job) survey(edges []Edge) (found []*finding, brought []Cache) {
	s := j.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if j.opt.Cache != nil {
		brought = []Cache{j.opt.Cache}
	}
	byID := map[ID]*finding{}
	type place struct {
		c      *cell
		output int
	}
	seen := map[place]bool{}
	// Inputs are put on the stack above what reads them; the second visit is the last.
	type frame struct {
		place
		open bool
	}
	var stack []frame
	for _, e := range slices.Backward(edges) {
		if c := j.loaded[e.Vertex]; c != nil {
			stack = append(stack, frame{place: place{c, e.Output}})
		}
	}
	for len(stack) > 0 {
		f := &stack[len(stack)-1]
		if !f.open {
			if seen[f.place] {
				stack = stack[:len(stack)-1]
				continue
			}
			seen[f.place], f.open = true, true
			c := f.c
			for i, in := range slices.Backward(c.ins) {
				stack = append(stack, frame{place: place{in, c.v.Inputs[i].Output}})
			}
			continue
		}
		p := f.place
		stack = stack[:len(stack)-1]
		key, ok := p.c.keyInHand()
		if !ok {
			continue
		}
		out := OutputID(key.ID, p.output)
		var from []ID
		inputs := make([]Traced, len(p.c.ins))
		spec, _ := p.c.spec.val.(*pinned)
		for i, in := range p.c.ins {
			k, ok := in.keyInHand()
			if !ok {
				continue
			}
			below := OutputID(k.ID, p.c.v.Inputs[i].Output)
			inputs[i].ID = below
			b := byID[below]
			if b == nil {
				continue
			}
			if !slices.Contains(from, below) {
				from = append(from, below)
			}
			if spec != nil && spec.Slots[i].Content != nil && !slices.Contains(b.parts, spec.Slots[i].Part) {
				b.parts = append(b.parts, spec.Slots[i].Part)
			}
		}
		var ways []Way
		if spec != nil {
			ways = []Way{{Op: p.c.v.Op, Spec: spec.Spec, Output: p.output, Inputs: inputs, edges: p.c.v.Inputs}}
		}
		if same := byID[out]; same != nil { // another definition with the same meaning
			same.ways = append(same.ways, ways...)
			continue
		}
		n := &finding{out: out, leaf: len(p.c.ins) == 0, from: from, ways: ways}
		if fl := p.c.answers[p.output]; fl != nil {
			if ans, ok := fl.val.(*answer); ok {
				ans.uses++
				n.ans = ans
			}
		}
		byID[out] = n
		found = append(found, n)
	}
	return found, brought
}

// keyInHand returns the key that c's answers have, or will have. s.mu is held.
func (c *cell) keyInHand() (Key, bool) {
	for _, f := range c.answers {
		if ans, ok := f.val.(*answer); ok {
			return ans.key, true
		}
	}
	if p, ok := c.guess.val.(*prediction); ok && p.settled {
		return p.key, true
	}
	return Key{}, false
}
