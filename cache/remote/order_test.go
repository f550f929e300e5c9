package remote

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"strconv"
	"testing"

	"github.com/dbuild/dbuild/cache/buildkit"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	digest "github.com/opencontainers/go-digest"
)

// someCaches makes caches of a few outputs, which know some of them, have results for fewer,
// and disagree about what is in them.
func someCaches(r *rand.Rand) []*memory {
	var out []*memory
	for n := range 2 + r.IntN(4) {
		b := newBuilder()
		b.names = true
		layers := map[digest.Digest]snapshot.ImageLayer{}
		blob := func() []result {
			if r.IntN(3) == 0 {
				return nil
			}
			d := dg(strconv.Itoa(n) + "/" + strconv.Itoa(len(layers)))
			layers[d] = snapshot.ImageLayer{DiffID: d}
			return []result{{Layer: b.stack([]digest.Digest{d})}}
		}
		made := []solver.Way{{Op: step("base", 1)}}
		b.add(solver.Entry{ID: outputOf(1), Leaf: true, Ways: made}, nil, nil)
		for id := byte(2); id < 8; id++ {
			if r.IntN(4) == 0 {
				continue
			}
			e := solver.Entry{ID: outputOf(id), Ways: []solver.Way{{Op: someStep(id), Inputs: []solver.Traced{{ID: outputOf(id / 2)}}}}}
			if r.IntN(2) == 0 {
				e.Sums = []solver.PartSum{{Part: solver.Part{1}, Sum: solver.Sum{byte(r.IntN(3))}}}
			}
			b.add(e, blob(), nil)
		}
		m := newMemory(&origin{})
		m.learn(&b.config, layers)
		out = append(out, m)
	}
	return out
}

func outputOf(key byte) solver.ID { return out(key, 0) }

func someStep(id byte) named { return step("step"+strconv.Itoa(int(id)), 1, buildkit.Input{}) }

// answers are what Imports say of each output of someCaches: by its name here, and by that in
// BuildKit, asked for in this order.
func answers(im *Imports) (known, has []bool, layers [][]digest.Digest, sums []solver.Sum) {
	bind(im, step("base", 1), 101)
	for id := byte(2); id < 8; id++ {
		of := byte(101)
		if id/2 > 1 {
			of = 100 + id/2
		}
		bind(im, someStep(id), 100+id, solver.Traced{ID: outputOf(of)})
	}
	for _, key := range []byte{1, 2, 3, 4, 5, 6, 7, 101, 102, 103, 104, 105, 106, 107} {
		known = append(known, im.Known(outputOf(key)))
		sum, _, _ := im.Sum(outputOf(key), solver.Part{1})
		sums = append(sums, sum)
		var blobs []digest.Digest
		i := slices.IndexFunc(im.list, func(m *memory) bool {
			l, ok := m.result(outputOf(key))
			for _, l := range l {
				blobs = append(blobs, l.DiffID)
			}
			return ok
		})
		has, layers = append(has, i >= 0), append(layers, blobs)
	}
	return known, has, layers, sums
}

// TestOrderOfCaches loads the same caches in many orders. What is found is the same in all of
// them; and of those that are named in one order the answers are the same, too, whichever
// is read first.
func TestOrderOfCaches(t *testing.T) {
	hits := 0
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		make := func(named, read []int) *Imports {
			caches := someCaches(rand.New(rand.NewPCG(seed, 1)))
			im := &Imports{}
			places := map[int]Place{}
			for _, n := range named {
				places[n] = im.Place()
			}
			for _, n := range read {
				places[n].put(caches[n : n+1])
			}
			return im
		}
		named := r.Perm(len(someCaches(rand.New(rand.NewPCG(seed, 1)))))
		known, has, layers, sums := answers(make(named, named))
		k2, h2, l2, s2 := answers(make(named, r.Perm(len(named))))
		if !reflect.DeepEqual([]any{known, has, layers, sums}, []any{k2, h2, l2, s2}) {
			t.Fatalf("seed %d: read in another order, other answers:\n%v\n%v", seed, layers, l2)
		}
		k3, h3, _, _ := answers(make(r.Perm(len(named)), named))
		if !slices.Equal(known, k3) || !slices.Equal(has, h3) {
			t.Fatalf("seed %d: named in another order, other hits:\n%v\n%v", seed, has, h3)
		}
		for _, ok := range has {
			if ok {
				hits++
			}
		}
	}
	if hits == 0 {
		t.Error("nothing was ever found")
	}
}
