package remote

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/solver"
	digest "github.com/opencontainers/go-digest"
)

// configType is the media type of a config.
const configType = "application/vnd.buildkit.cacheconfig.v0"

// A config lists what is remembered. Numbers are indexes into its lists.
type config struct {
	Layers  []layer  `json:"layers,omitempty"`
	Records []record `json:"records,omitempty"`
	Mounts  []mount  `json:"dbuild.mounts,omitempty"`
}

// A layer is a blob on top of another layer, or of none (-1).
type layer struct {
	Blob   digest.Digest `json:"blob"`
	Parent int           `json:"parent"`
	About  *about        `json:"annotations,omitempty"` // where no manifest says it
}

// about is what a manifest says of a blob, in caches that have none.
type about struct {
	MediaType string        `json:"mediaType,omitempty"`
	DiffID    digest.Digest `json:"diffID,omitempty"`
	Size      int64         `json:"size,omitempty"`
	Created   time.Time     `json:"createdAt,omitzero"`
}

type record struct {
	Results []result      `json:"layers,omitempty"`
	Chains  []chain       `json:"chains,omitempty"`
	Digest  digest.Digest `json:"digest"`
	Inputs  [][]input     `json:"inputs,omitempty"` // by input: what it may have been
	// Build numbers the builds of a cache that is appended to: the last one that wrote the
	// record. BuildKit does not look at it.
	Build int `json:"dbuild.build,omitempty"`
}

// A result is a layer with all that is beneath it.
type result struct {
	Layer   int        `json:"layer"`
	Created *time.Time `json:"createdAt,omitempty"`
}

// A chain is a result whose layers are listed one by one, oldest first.
type chain struct {
	Layers  []int      `json:"layers"`
	Created *time.Time `json:"createdAt,omitempty"`
}

type input struct {
	Selector string `json:"selector,omitempty"`
	Link     int    `json:"link"`
}

// partPrefix begins the selectors of sums.
const partPrefix = "part:"

func selector(p solver.Part) string { return partPrefix + hex.EncodeToString(p[:]) }

func partOf(selector string) (p solver.Part, ok bool) {
	s, ok := strings.CutPrefix(selector, partPrefix)
	if !ok {
		return p, false
	}
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(p) {
		return p, false
	}
	return solver.Part(b), true
}

func digestOf[T solver.ID | solver.Sum](id T) digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(id[:]))
}

func bytesOf(d digest.Digest) (id [32]byte, ok bool) {
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return id, false
	}
	b, err := hex.DecodeString(d.Encoded())
	if err != nil || len(b) != len(id) {
		return id, false
	}
	return [32]byte(b), true
}

// parseConfig reads a config and checks that its numbers lead somewhere and layers have
// an end.
func parseConfig(b []byte) (*config, error) {
	c := &config{}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, malformed("%v", err)
	}
	return c, c.check()
}

// parseInline reads the records that an image carries, whose layers are those of the image.
func parseInline(b []byte, blobs []digest.Digest) (*config, error) {
	c := &config{}
	if err := json.Unmarshal(b, &c.Records); err != nil {
		return nil, malformed("%v", err)
	}
	for i, d := range blobs {
		c.Layers = append(c.Layers, layer{Blob: d, Parent: i - 1})
	}
	return c, c.check()
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("the cache has an invalid config: "+format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

func (c *config) check() error {
	for i, l := range c.Layers {
		if err := l.Blob.Validate(); err != nil {
			return malformed("layer %d: %v", i, err)
		}
		if l.Parent < -1 || l.Parent >= len(c.Layers) {
			return malformed("layer %d is on top of layer %d of %d", i, l.Parent, len(c.Layers))
		}
	}
	ends := make([]bool, len(c.Layers))
	for i := range c.Layers {
		n := 0
		for k := i; k >= 0 && !ends[k]; k = c.Layers[k].Parent {
			if n++; n > len(c.Layers) {
				return malformed("layer %d is on top of itself", i)
			}
		}
		for k := i; k >= 0 && !ends[k]; k = c.Layers[k].Parent {
			ends[k] = true
		}
	}
	for i, r := range c.Records {
		for _, res := range r.Results {
			if res.Layer < 0 || res.Layer >= len(c.Layers) {
				return malformed("record %d has layer %d of %d", i, res.Layer, len(c.Layers))
			}
		}
		for _, ch := range r.Chains {
			for _, l := range ch.Layers {
				if l < 0 || l >= len(c.Layers) {
					return malformed("record %d has layer %d of %d", i, l, len(c.Layers))
				}
			}
		}
		for _, alternatives := range r.Inputs {
			for _, in := range alternatives {
				if in.Link < 0 || in.Link >= len(c.Records) {
					return malformed("record %d was made from record %d of %d", i, in.Link, len(c.Records))
				}
			}
		}
	}
	return nil
}

// whole says of each layer whether it and all beneath it are known.
func (c *config) whole(known func(digest.Digest) bool) []bool {
	const unseen, yes, no = 0, 1, 2
	state := make([]int, len(c.Layers))
	var path []int
	for i := range c.Layers {
		k := i
		for path = path[:0]; k >= 0 && state[k] == unseen; k = c.Layers[k].Parent {
			path = append(path, k)
		}
		below := yes
		if k >= 0 {
			below = state[k]
		}
		for _, k := range slices.Backward(path) {
			if !known(c.Layers[k].Blob) {
				below = no
			}
			state[k] = below
		}
	}
	out := make([]bool, len(state))
	for i, s := range state {
		out[i] = s == yes
	}
	return out
}

// has reports whether a record has a result whose layers are all known.
func (c *config) has(r record, whole []bool) bool {
	if len(r.Results) > 0 {
		return whole[r.Results[0].Layer]
	}
	if len(r.Chains) == 0 {
		return false
	}
	return !slices.ContainsFunc(r.Chains[0].Layers, func(k int) bool { return !whole[k] })
}

// layersOf returns the blobs of a record's result, oldest first.
func (c *config) layersOf(r record) (blobs []digest.Digest) {
	if len(r.Results) > 0 {
		for k := r.Results[0].Layer; k >= 0; k = c.Layers[k].Parent {
			blobs = append(blobs, c.Layers[k].Blob)
		}
		slices.Reverse(blobs)
		return blobs
	}
	for _, k := range r.Chains[0].Layers {
		blobs = append(blobs, c.Layers[k].Blob)
	}
	return blobs
}

// A builder makes a config.
type builder struct {
	config
	layers  map[layer]int
	records map[digest.Digest]int
	names   bool                // BuildKit's, too
	foreign map[solver.ID][]int // records by BuildKit's names of an output
}

func newBuilder() *builder {
	return &builder{layers: map[layer]int{}, records: map[digest.Digest]int{}, foreign: map[solver.ID][]int{}}
}

// stack returns the index of the topmost of these blobs, oldest first. layers has the index
// of each layer of c.
func stack(c *config, layers map[layer]int, blobs []digest.Digest) int {
	top := -1
	for _, d := range blobs {
		l := layer{Blob: d, Parent: top}
		i, ok := layers[l]
		if !ok {
			i = len(c.Layers)
			layers[l] = i
			c.Layers = append(c.Layers, l)
		}
		top = i
	}
	return top
}

func (b *builder) stack(blobs []digest.Digest) int { return stack(&b.config, b.layers, blobs) }

// add appends what is known of an output, under both names.
func (b *builder) add(e solver.Entry, results []result, chains []chain) {
	b.own(e, results, chains)
	if !b.names {
		return
	}
	for _, w := range e.Ways {
		b.buildkit(e.ID, w, results, chains)
	}
}

func (b *builder) own(e solver.Entry, results []result, chains []chain) {
	r := record{Digest: digestOf(e.ID), Results: results, Chains: chains}
	for _, id := range e.From {
		if i, ok := b.records[digestOf(id)]; ok {
			r.Inputs = append(r.Inputs, []input{{Link: i}})
		}
	}
	at := len(b.Records)
	b.records[r.Digest] = at
	b.Records = append(b.Records, r)
	for _, s := range e.Sums {
		d := digestOf(s.Sum)
		i, ok := b.records[d]
		if !ok {
			i = len(b.Records)
			b.records[d] = i
			b.Records = append(b.Records, record{Digest: d, Inputs: [][]input{nil}})
		}
		b.Records[i].Inputs[0] = append(b.Records[i].Inputs[0], input{selector(s.Part), at})
	}
}
