package worker

import (
	"encoding/json"

	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker/runc/proxy"
	"github.com/dbuild/dbuild/worker/runc/usage"
)

// A Note is what a result remembers of the process that made it. It is kept with the layer, so
// that it is known whenever the result is found.
type Note struct {
	Fetched *Fetched       `json:"fetched,omitempty"` // nil: its network was no proxy
	Usage   []usage.Sample `json:"usage,omitempty"`   // none: nobody asked
}

// Fetched is what a process asked its proxy for, and how many requests there were beside
// those listed.
type Fetched struct {
	List []proxy.Fetch `json:"list,omitempty"`
	More int           `json:"more,omitempty"`
}

// NoteOf returns what ref remembers, which may be nothing.
func NoteOf(ref solver.Ref) (n Note) {
	r, ok := ref.(*Ref)
	if !ok || r.snap == nil {
		return n
	}
	if b := r.snap.Note(); b == nil || json.Unmarshal(b, &n) != nil {
		return Note{}
	}
	return n
}

// note is what is to be remembered of the process of m; nil is nothing.
func (m *mounting) note() []byte {
	var n Note
	if m.fetched != nil {
		n.Fetched = new(Fetched)
		n.Fetched.List, n.Fetched.More = m.fetched.Fetches()
	}
	n.Usage = m.used
	if n.Fetched == nil && n.Usage == nil {
		return nil
	}
	b, err := json.Marshal(n)
	if err != nil {
		return nil // then it is not known
	}
	return b
}

// A UsageAsker is a Client that may want to know what processes use of the machine.
type UsageAsker interface {
	Client
	// AsksUsage says whether it does.
	AsksUsage() bool
}

// asksUsage reports whether somebody who waits for d does.
func asksUsage(d solver.Demand) bool {
	for j := range d.Jobs() {
		if a, ok := j.Value().(UsageAsker); ok && a.AsksUsage() {
			return true
		}
	}
	return false
}
