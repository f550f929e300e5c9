package daemon

import (
	"context"

	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker"
	digest "github.com/opencontainers/go-digest"
)

// solverVertices are what e is made from, by the digest of the operation.
func solverVertices(e solver.Edge) map[digest.Digest]*solver.Vertex {
	out := map[digest.Digest]*solver.Vertex{}
	for todo := []*solver.Vertex{e.Vertex}; len(todo) > 0; {
		v := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if out[v.Show.Digest] != nil {
			continue
		}
		out[v.Show.Digest] = v
		for _, in := range v.Inputs {
			todo = append(todo, in.Vertex)
		}
	}
	return out
}

// noteFor returns what is remembered of the process of v. If it was not needed in this build,
// because what is made from it was found, that is looked up.
func (b *build) noteFor(v *solver.Vertex) (n worker.Note) {
	fate, known := b.job.Fate(v)
	if !known {
		return n
	}
	found := false
	for _, ref := range fate.Refs {
		if ref == nil {
			continue
		}
		if !found {
			n, found = worker.NoteOf(ref), true
		}
		ref.Release()
	}
	if found || fate.Key == (solver.ID{}) {
		return n
	}
	ref, _, err := b.d.cache.Get(context.Background(), solver.OutputID(fate.Key, 0))
	if err != nil || ref == nil {
		return n
	}
	defer ref.Release()
	return worker.NoteOf(ref)
}
