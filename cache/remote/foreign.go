package remote

import (
	"crypto/sha256"
	"slices"
	"time"

	"github.com/dbuild/dbuild/cache/buildkit"
	"github.com/dbuild/dbuild/solver"
	digest "github.com/opencontainers/go-digest"
)

// What BuildKit remembers is found the way it does itself: a record is that of an answer if
// its digest is that of the step, and each of its inputs may be what the step is made from:
// either a record of what makes the input, or one of what was read of it.

// Trace implements solver.Foreign.
func (im *Imports) Trace(op solver.Op, spec solver.Spec) (solver.Tracer, bool) {
	im.mu.RLock()
	list := im.list
	im.mu.RUnlock()
	if len(list) == 0 {
		return nil, false
	}
	step, ok := buildkit.Name(op, spec)
	if !ok {
		return nil, false
	}
	t := &tracer{step: step, list: list}
	for o := range step.Outputs {
		d := buildkit.Record(step.Digest, o)
		t.outputs = append(t.outputs, d)
		ok = ok && !slices.ContainsFunc(list, func(m *memory) bool { return len(m.records[d]) > 0 })
	}
	return t, !ok
}

// A tracer finds the records of one step.
type tracer struct {
	step    buildkit.Step
	outputs []digest.Digest // records of which are wanted
	list    []*memory
}

// Content implements solver.Tracer.
func (t *tracer) Content(i int) (solver.Slot, bool) { return t.step.Slot(i) }

// Match implements solver.Tracer.
func (t *tracer) Match(from []solver.Traced) (solver.Match, bool) {
	out := &match{step: t.step, from: from}
	for _, m := range t.list {
		for o, d := range t.outputs {
			for _, s := range m.records[d] {
				if m.made(s, t.step, from) {
					out.found = append(out.found, found{m, o, s})
				}
			}
		}
	}
	return out, len(out.found) > 0
}

// made reports whether a record may be about a step that is made from these inputs.
func (m *memory) made(s stored, step buildkit.Step, from []solver.Traced) bool {
	r := s.record()
	if len(r.Inputs) != len(from) || len(step.Inputs) != len(from) {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, alternatives := range r.Inputs {
		bound := m.bound[from[i].ID]
		content, one := contentOf(s.c, alternatives, step.Inputs[i])
		ok := one && from[i].Sum != nil && buildkit.ContentRecord(*from[i].Sum) == content
		ok = ok || slices.ContainsFunc(alternatives, func(in input) bool {
			return in.Selector == step.Inputs[i].Selector.String() &&
				slices.ContainsFunc(bound, func(b stored) bool { return b.c.config == s.c.config && b.r == in.Link })
		})
		if !ok {
			return false
		}
	}
	return true
}

// contentOf returns the record of what was read of an input, if there is exactly one. If
// there are several, the input was not the same whenever it was made, and the record's
// result may be of any.
func contentOf(c *learned, alternatives []input, in buildkit.Input) (_ digest.Digest, ok bool) {
	var d digest.Digest
	for _, a := range alternatives {
		r := &c.Records[a.Link]
		if a.Selector != "" || len(r.Inputs) > 0 || in.Selector == "" || r.Digest == d {
			continue
		}
		if d != "" {
			return "", false
		}
		d = r.Digest
	}
	return d, d != ""
}

// newest returns the record with the newest result, if any has one.
func newest(records []stored) (best stored, ok bool) {
	var at time.Time
	for _, s := range records {
		r := s.record()
		if !s.whole() || len(s.c.layersOf(*r)) == 0 {
			continue
		}
		var t time.Time
		switch {
		case len(r.Results) > 0 && r.Results[0].Created != nil:
			t = *r.Results[0].Created
		case len(r.Results) == 0 && r.Chains[0].Created != nil:
			t = *r.Chains[0].Created
		}
		if !ok || t.After(at) {
			best, at, ok = s, t, true
		}
	}
	return best, ok
}

// knows reports whether an output was ever seen, by whatever name.
func (m *memory) knows(id solver.ID) bool {
	if m.known[id] {
		return true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.bound[id]) > 0
}

// Names is a solver.Namer that knows BuildKit's names, for writing them.
type Names struct{}

// Trace implements solver.Namer.
func (Names) Trace(op solver.Op, spec solver.Spec) (solver.Tracer, bool) {
	step, ok := buildkit.Name(op, spec)
	return &tracer{step: step}, ok
}

// buildkit appends what BuildKit would have written about an output, if all that it is made
// from has a name.
func (b *builder) buildkit(id solver.ID, w solver.Way, results []result, chains []chain) {
	step, ok := buildkit.Name(w.Op, w.Spec)
	if !ok || len(step.Inputs) != len(w.Inputs) || w.Output >= step.Outputs {
		return
	}
	r := record{Digest: buildkit.Record(step.Digest, w.Output), Results: results}
	for _, c := range chains {
		if len(c.Layers) > 0 { // BuildKit has no empty results
			r.Chains = append(r.Chains, c)
		}
	}
	for i, in := range w.Inputs {
		var alternatives []input
		for _, at := range b.foreign[in.ID] {
			alternatives = append(alternatives, input{step.Inputs[i].Selector.String(), at})
		}
		if in.Sum != nil {
			alternatives = append(alternatives, input{Link: b.leaf(buildkit.ContentRecord(*in.Sum))})
		}
		if len(alternatives) == 0 {
			return
		}
		r.Inputs = append(r.Inputs, alternatives)
	}
	b.foreign[id] = append(b.foreign[id], len(b.Records))
	b.Records = append(b.Records, r)
}

// leaf returns the index of a record without inputs.
func (b *builder) leaf(d digest.Digest) int {
	i, ok := b.records[d]
	if !ok {
		i = len(b.Records)
		b.records[d] = i
		b.Records = append(b.Records, record{Digest: d})
	}
	return i
}

// A match is the records of one step.
type match struct {
	step  buildkit.Step
	from  []solver.Traced
	found []found
}

type found struct {
	m      *memory
	output int
	at     stored
}

// Sum implements solver.Match: what BuildKit read there, if it says so, or the name of the
// part that it read.
func (x *match) Sum(i int, part solver.Part) solver.Sum {
	f := x.found[0]
	if d, ok := contentOf(f.at.c, f.at.record().Inputs[i], x.step.Inputs[i]); ok {
		return sha256.Sum256([]byte("dbuild buildkit content\x00" + d.String()))
	}
	b := append([]byte("dbuild buildkit part\x00"), x.from[i].ID[:]...)
	return sha256.Sum256(append(b, part[:]...))
}

// Bind implements solver.Match.
func (x *match) Bind(key solver.ID) {
	for _, f := range x.found {
		id := solver.OutputID(key, f.output)
		f.m.mu.Lock()
		if !slices.ContainsFunc(f.m.bound[id], func(s stored) bool { return s.c.config == f.at.c.config && s.r == f.at.r }) {
			f.m.bound[id] = append(f.m.bound[id], f.at)
		}
		f.m.mu.Unlock()
	}
}
