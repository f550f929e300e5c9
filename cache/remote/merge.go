package remote

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

// A merger puts configs together. Those that are added later have newer results, and newer
// sums.
type merger struct {
	config
	layers map[layer]int
	at     map[string]int // records by name
	sums   map[summed]int // the record of a sum, by what it is a sum of
}

// summed is a part of the output of a record.
type summed struct {
	record   int
	selector string
}

func newMerger() *merger {
	return &merger{layers: map[layer]int{}, at: map[string]int{}, sums: map[summed]int{}}
}

// isSum reports whether a record says what content parts of other records have.
func (r *record) isSum() bool {
	return len(r.Inputs) == 1 && len(r.Inputs[0]) > 0 && strings.HasPrefix(r.Inputs[0][0].Selector, partPrefix)
}

// add adds the records of c that keep wants, with the layers that whole says are there. A
// record that is made from others that were left out is left out as well.
func (m *merger) add(c *config, keep func(r *record) bool, whole []bool) {
	n := &namer{config: c, keep: keep, names: make([]*string, len(c.Records))}
	to := make([]int, len(c.Records)) // by record of c; -1 if left out
	for i := range c.Records {
		to[i] = -1
		if name := n.name(i); name != "" {
			to[i] = m.place(name)
		}
	}
	for i := range c.Records {
		r := &c.Records[i]
		switch {
		case to[i] < 0:
		case r.isSum():
			m.sum(to[i], r, to)
		default:
			m.record(to[i], c, r, to, whole)
		}
	}
}

// place returns the index of the record with a name.
func (m *merger) place(name string) int {
	i, ok := m.at[name]
	if !ok {
		i = len(m.Records)
		m.at[name] = i
		m.Records = append(m.Records, record{})
	}
	return i
}

// record puts r of c at its place. It keeps an older result if it has none of its own.
func (m *merger) record(at int, c *config, r *record, to []int, whole []bool) {
	merged := record{Digest: r.Digest, Build: r.Build}
	for _, alternatives := range r.Inputs {
		var kept []input
		for _, in := range alternatives {
			if to[in.Link] >= 0 {
				kept = append(kept, input{in.Selector, to[in.Link]})
			}
		}
		merged.Inputs = append(merged.Inputs, kept)
	}
	for _, res := range r.Results {
		if whole[res.Layer] {
			merged.Results = append(merged.Results, result{m.restack(c, res.Layer), res.Created})
		}
	}
	for _, ch := range r.Chains {
		if slices.ContainsFunc(ch.Layers, func(k int) bool { return !whole[k] }) {
			continue
		}
		moved := chain{Layers: []int{}, Created: ch.Created}
		for _, k := range ch.Layers {
			moved.Layers = append(moved.Layers, m.restack(c, k))
		}
		merged.Chains = append(merged.Chains, moved)
	}
	if len(merged.Results)+len(merged.Chains) == 0 {
		merged.Results, merged.Chains = m.Records[at].Results, m.Records[at].Chains
	}
	m.Records[at] = merged
}

// sum adds what r, the record of a sum, says of parts. A part has one sum, the newest.
func (m *merger) sum(at int, r *record, to []int) {
	if m.Records[at].Digest == "" {
		m.Records[at] = record{Digest: r.Digest, Inputs: [][]input{nil}}
	}
	for _, in := range r.Inputs[0] {
		if to[in.Link] < 0 {
			continue
		}
		in.Link = to[in.Link]
		of := summed{in.Link, in.Selector}
		if old, ok := m.sums[of]; ok {
			links := &m.Records[old].Inputs[0]
			*links = slices.DeleteFunc(*links, func(l input) bool { return l == in })
		}
		m.sums[of] = at
		m.Records[at].Inputs[0] = append(m.Records[at].Inputs[0], in)
	}
}

// mounts adds the cache mounts that keep wants. Of two copies of one the newer stays.
func (m *merger) mounts(list []mount, keep func(mount) bool) {
	for _, mt := range list {
		if !keep(mt) {
			continue
		}
		m.Mounts = slices.DeleteFunc(m.Mounts, func(old mount) bool { return old.ID == mt.ID && old.Base == mt.Base })
		m.Mounts = append(m.Mounts, mt)
	}
	sortMounts(m.Mounts)
}

// covers reports whether every record of other stands in c too, with a result if it has one
// there.
func (c *config) covers(other *config) bool {
	all := func(*record) bool { return true }
	mine := &namer{config: c, keep: all, names: make([]*string, len(c.Records))}
	has := map[string]bool{} // by name: whether there is a result
	for i := range c.Records {
		r := &c.Records[i]
		has[mine.name(i)] = len(r.Results)+len(r.Chains) > 0
	}
	theirs := &namer{config: other, keep: all, names: make([]*string, len(other.Records))}
	for i := range other.Records {
		r := &other.Records[i]
		name := theirs.name(i)
		result, known := has[name]
		if name != "" && !known || known && !result && len(r.Results)+len(r.Chains) > 0 {
			return false
		}
	}
	return true
}

// restack returns the index here of a layer of c, with all that is beneath it.
func (m *merger) restack(c *config, k int) int {
	var blobs []digest.Digest
	for ; k >= 0; k = c.Layers[k].Parent {
		blobs = append(blobs, c.Layers[k].Blob)
	}
	slices.Reverse(blobs)
	return stack(&m.config, m.layers, blobs)
}

// A namer gives records names that mean the same in every config.
type namer struct {
	*config
	keep  func(*record) bool
	names []*string // nil: not known yet
}

// name returns the name of a record, or "" if it is left out.
func (n *namer) name(i int) string {
	if n.names[i] != nil {
		return *n.names[i]
	}
	name := new(string)
	n.names[i] = name // of a record that is made from itself: none
	r := &n.Records[i]
	switch {
	case r.isSum():
		if slices.ContainsFunc(r.Inputs[0], func(in input) bool { return n.name(in.Link) != "" }) {
			*name = "sum " + r.Digest.String()
		}
	case n.keep(r):
		*name = n.made(r)
	}
	return *name
}

// made is the name of a record that is no sum: its digest, and what it is made from.
func (n *namer) made(r *record) string {
	h := sha256.New()
	h.Write([]byte(r.Digest))
	for _, alternatives := range r.Inputs {
		var links []string
		for _, in := range alternatives {
			if of := n.name(in.Link); of != "" {
				links = append(links, in.Selector+" "+of)
			}
		}
		if links == nil {
			return ""
		}
		slices.Sort(links)
		h.Write([]byte("\n" + strings.Join(slices.Compact(links), "\t")))
	}
	return hex.EncodeToString(h.Sum(nil))
}
