package daemon

import (
	"github.com/dbuild/dbuild/attest/provenance"
	"github.com/dbuild/dbuild/worker/runc/usage"
)

// AsksUsage implements worker.UsageAsker.
func (b *build) AsksUsage() bool {
	p := b.attests.Provenance
	return p != nil && p.Max && p.CaptureUsage
}

// measure begins to record what the machine does, if the client wants to know.
func (b *build) measure() {
	if b.AsksUsage() {
		b.system = usage.Record(usage.ReadSystem)
	}
}

// addUsage adds to c what its steps used, each when it ran, and what the machine has done since
// the build began.
func (b *build) addUsage(c *provenance.Capture, r *ref) {
	if b.system == nil || r.empty {
		return
	}
	c.System = b.system.Samples()
	vertices := solverVertices(r.edge)
	for _, v := range r.graph.Vertices {
		if v.Op.GetExec() == nil {
			continue
		}
		if list := b.noteFor(vertices[v.Digest]).Usage; len(list) > 0 {
			c.Usage[v.Digest] = list
		}
	}
}
