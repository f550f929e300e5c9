package remote

import (
	"testing"

	"github.com/dbuild/dbuild/cache/buildkit"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	digest "github.com/opencontainers/go-digest"
)

// FuzzConfig reads configs that somebody else wrote.
func FuzzConfig(f *testing.F) {
	const d = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	f.Add([]byte(`{"layers":[{"blob":"` + d + `","parent":-1}],"records":[{"digest":"` + d + `","layers":[{"layer":0}]},{"digest":"` + d + `","inputs":[[{"selector":"part:00","link":0}]]}]}`))
	f.Add([]byte(`{"layers":[{"blob":"` + d + `","parent":1},{"blob":"` + d + `"}]}`))
	f.Add([]byte(`{"layers":[{"blob":"` + d + `","parent":-1}],"records":[{"digest":"x","chains":[{"layers":[0,0,1]}]}]}`))
	f.Add([]byte(`{"records":[{"inputs":[[{"link":-1}],null]}]}`))
	f.Add([]byte(`{"records":[{"digest":"` + d + `"},{"digest":"` + d + `","inputs":[[{"link":0},{"selector":"` + d + `","link":1}]],"chains":[{"layers":[]}]}]}`))
	f.Add([]byte(`{"dbuild.mounts":[{"id":"/a","blob":"` + d + `","annotations":{"size":1,"diffID":"` + d + `"}},{"blob":"x"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseConfig(b)
		if err != nil {
			return
		}
		m := newMemory(&origin{promise: func(*snapshot.ImageLayer) {}})
		layers := map[digest.Digest]snapshot.ImageLayer{}
		for _, l := range c.Layers {
			layers[l.Blob] = snapshot.ImageLayer{DiffID: l.Blob}
		}
		m.learn(c, layers)
		for _, list := range m.records {
			for _, at := range list {
				step := buildkit.Step{Inputs: make([]buildkit.Input, len(at.record().Inputs))}
				for i := range step.Inputs {
					step.Inputs[i].Selector = d
				}
				from := make([]solver.Traced, len(step.Inputs))
				m.bound[solver.ID{}] = list
				m.made(at, step, from)
				x := &match{step: step, from: from, found: []found{{m, 0, at}}}
				for i := range from {
					x.Sum(i, solver.Part{})
				}
				x.Bind(solver.ID{1})
			}
		}
		if s, ok := newest(m.bound[solver.OutputID(solver.ID{1}, 0)]); ok && !s.whole() {
			t.Fatal("a result with an unknown layer")
		}
		for at, l := range m.mounts {
			if l.DiffID.Validate() != nil || l.Blob.Digest.Validate() != nil {
				t.Fatalf("mount %v is of no digest", at)
			}
		}
		for id := range m.known {
			if ls, ok := m.result(id); ok {
				for _, l := range ls {
					if l.DiffID == "" {
						t.Fatal("a result with an unknown layer")
					}
				}
			}
			m.drop(id)
			if _, ok := m.result(id); ok {
				t.Fatal("dropped, and still there")
			}
		}
	})
}
