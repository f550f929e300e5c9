package remote

import (
	"encoding/json"
	"math/rand/v2"
	"testing"

	digest "github.com/opencontainers/go-digest"
)

// all says of each layer of c that it is there.
func all(c *config) []bool { return c.whole(func(digest.Digest) bool { return true }) }

func keepAll(*record) bool { return true }

// configOf is the only config of a memory.
func configOf(m *memory) *config {
	for _, s := range m.records {
		return s[0].c.config
	}
	return nil
}

// TestMerge merges caches that know some of the same outputs. All that one of them has is in
// the result, with the newest sums, and nothing twice.
func TestMerge(t *testing.T) {
	for seed := range uint64(200) {
		caches := someCaches(rand.New(rand.NewPCG(seed, 1)))
		m := newMerger()
		for _, c := range caches {
			m.add(configOf(c), keepAll, all(configOf(c)))
		}
		size := len(m.Records)
		last := configOf(caches[len(caches)-1])
		m.add(last, keepAll, all(last))
		if len(m.Records) != size {
			t.Fatalf("seed %d: added twice, a cache has %d records instead of %d", seed, len(m.Records), size)
		}
		data, err := json.Marshal(m.config)
		if err != nil {
			t.Fatal(err)
		}
		merged, err := parseConfig(data)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		one := newMemory(&origin{})
		layers := caches[0].layers
		for _, c := range caches[1:] {
			for d, l := range c.layers {
				layers[d] = l
			}
		}
		one.learn(merged, layers)
		known, has, _, _ := answers(&Imports{list: []*memory{one}})
		for _, c := range caches {
			k, h, _, _ := answers(&Imports{list: []*memory{c}})
			for i := range k {
				if k[i] && !known[i] || h[i] && !has[i] {
					t.Fatalf("seed %d: output %d was lost", seed, i)
				}
			}
		}
		for of, sum := range caches[len(caches)-1].sums {
			if one.sums[of] != sum {
				t.Fatalf("seed %d: a part has an older sum than the newest", seed)
			}
		}
	}
}

// TestMergeLeavesOut drops what nobody keeps, and what is made from it.
func TestMergeLeavesOut(t *testing.T) {
	c := &config{
		Layers: []layer{{Blob: dg("a"), Parent: -1}, {Blob: dg("b"), Parent: 0}},
		Records: []record{
			{Digest: dg("base"), Build: 1},
			{Digest: dg("old"), Build: 1, Inputs: [][]input{{{Link: 0}}}, Results: []result{{Layer: 1}}},
			{Digest: dg("of the old"), Build: 3, Inputs: [][]input{{{Link: 1}}}, Results: []result{{Layer: 1}}},
			{Digest: dg("sum"), Inputs: [][]input{{{Selector: partPrefix + "x", Link: 1}}}},
			{Digest: dg("leaf"), Build: 3},
			{Digest: dg("either"), Build: 3, Inputs: [][]input{{{Selector: "s", Link: 1}, {Link: 4}}}, Results: []result{{Layer: 1}}},
			{Digest: dg("circle"), Build: 3, Inputs: [][]input{{{Link: 6}}}},
			{Digest: dg("lost"), Build: 3, Inputs: [][]input{{{Link: 4}}}, Chains: []chain{{Layers: []int{0, 1}}}},
		},
	}
	m := newMerger()
	m.add(c, func(r *record) bool { return r.Build > 1 }, []bool{true, false})
	want := &config{Records: []record{
		{Digest: dg("leaf"), Build: 3},
		{Digest: dg("either"), Build: 3, Inputs: [][]input{{{Link: 0}}}},
		{Digest: dg("lost"), Build: 3, Inputs: [][]input{{{Link: 0}}}},
	}}
	got, _ := json.Marshal(m.config)
	if b, _ := json.Marshal(want); string(b) != string(got) {
		t.Errorf("%s\nwant\n%s", got, b)
	}
}
