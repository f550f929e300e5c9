package solver_test

import (
	"context"
	"testing"

	"github.com/dbuild/dbuild/solver"
)

// A doubter is a job's Cache that knows nothing but what is gone.
type doubter struct {
	*memCache
	gone string // the text of a Ref
}

func (d *doubter) Check(_ context.Context, ref solver.Ref) bool {
	return ref.(*val).data.text != d.gone
}

// What a job knows to be gone is a miss in every cache, and is made again and remembered;
// what it is made from is found, unless that is gone, too.
func TestGoneIsAMiss(t *testing.T) {
	r := newRig(t)
	r.w.sources = map[string]string{"alpine": "A", "golang": "G", "ctx": "main.go readme"}
	f := dockerfile(r.w)
	r.build(f)
	r.w.runs()
	r.buildWith(&doubter{newMemCache(), "something else"}, f)
	r.ran("")
	r.buildWith(&doubter{newMemCache(), r.w.naive(solver.Edge{Vertex: f})}, f)
	r.ran("copybin")
	r.build(f)
	r.ran("")
	r.quiet()
}
