package llb

import (
	"maps"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Output is one output of a node of the graph. The zero Output is scratch: an empty
// filesystem. Outputs may be compared with ==.
type Output struct {
	node  *node
	index int
}

// IsScratch reports whether o is the empty filesystem.
func (o Output) IsScratch() bool { return o.node == nil }

// A node is immutable once its constructor has returned.
type node struct {
	inputs []Output // in the order of first use, without scratch; may repeat
	meta   Meta
	caps   []apicaps.CapID

	// op makes the op without Platform and Constraints; in returns the position that
	// an output has among the op's inputs, adding it if it is new, or -1 for scratch.
	op func(in func(Output) int64) *pb.Op

	platform    *ocispec.Platform // overrides the default, here and in what is built on this
	hasPlatform bool              // this kind of op carries a platform
	repeat      bool              // equal inputs are listed repeatedly
	err         error             // why the node cannot be marshalled

	// Set for a node of a foreign definition, whose bytes are kept as they came.
	raw        []byte
	rawMeta    *pb.OpMetadata
	rawSources []*SourceLocation
}

// Meta is what a node says about itself apart from its work. It enters no digest.
type Meta struct {
	// Name is what people see ("llb.customname").
	Name string
	// Description holds other texts, such as "com.docker.dockerfile.v1.command".
	Description map[string]string
	// IgnoreCache has the node run although its result is known.
	IgnoreCache bool
	// ExportCache, if set, forces or forbids the result's export with the cache.
	ExportCache *bool
	Group       *pb.ProgressGroup
	Resources   *pb.LinuxResources
	Caps        []apicaps.CapID // required besides those that follow from the op
	// Constraints are containerd filters that a worker must match. Unlike the rest of
	// Meta they are part of the op, and so of its digest.
	Constraints []string
	Locations   []*SourceLocation
}

// A SourceLocation says which ranges of a source file a node comes from. Locations
// with equal files share one entry in the definition, the fastest if File is the same
// pointer.
type SourceLocation struct {
	File   *pb.SourceInfo
	Ranges []*pb.Range
}

func (m *Meta) pb(caps []apicaps.CapID) *pb.OpMetadata {
	out := &pb.OpMetadata{
		IgnoreCache:    m.IgnoreCache,
		ProgressGroup:  m.Group,
		LinuxResources: m.Resources,
	}
	if len(m.Description) > 0 || m.Name != "" {
		out.Description = make(map[string]string, len(m.Description)+1)
		maps.Copy(out.Description, m.Description)
		if m.Name != "" {
			out.Description["llb.customname"] = m.Name
		}
	}
	if m.ExportCache != nil {
		out.ExportCache = &pb.ExportCache{Value: *m.ExportCache}
	}
	if len(caps)+len(m.Caps) > 0 {
		out.Caps = make(map[string]bool, len(caps)+len(m.Caps))
		for _, c := range caps {
			out.Caps[string(c)] = true
		}
		for _, c := range m.Caps {
			out.Caps[string(c)] = true
		}
	}
	return out
}

// mergeMeta adds src, which describes an equal op, to dst.
func mergeMeta(dst, src *pb.OpMetadata) *pb.OpMetadata {
	if dst == nil {
		return src
	}
	if src == nil {
		return dst
	}
	dst = dst.CloneVT() // it may belong to a definition that was given to us
	dst.IgnoreCache = dst.IgnoreCache || src.IgnoreCache
	if len(src.Description) > 0 {
		if dst.Description == nil {
			dst.Description = map[string]string{}
		}
		maps.Copy(dst.Description, src.Description)
	}
	if len(src.Caps) > 0 {
		if dst.Caps == nil {
			dst.Caps = map[string]bool{}
		}
		maps.Copy(dst.Caps, src.Caps)
	}
	if src.ExportCache != nil {
		dst.ExportCache = src.ExportCache
	}
	if src.ProgressGroup != nil {
		dst.ProgressGroup = src.ProgressGroup
	}
	if src.LinuxResources != nil {
		dst.LinuxResources = src.LinuxResources
	}
	return dst
}

func (n *node) addCap(c apicaps.CapID) { n.caps = append(n.caps, c) }

// use records that n reads o.
func (n *node) use(o Output) {
	if o.node != nil {
		n.inputs = append(n.inputs, o)
	}
}

// inherit has n, if it has no platform of its own, take that of what it is built on.
func (n *node) inherit(o Output) {
	if n.platform == nil && o.node != nil && o.node.platform != nil {
		p := platforms.Normalize(*o.node.platform)
		n.platform = &p
	}
}

// Merge lays its inputs over each other, lowest first. Scratch inputs have no effect;
// a merge of nothing is scratch and a merge of one thing is that thing.
func Merge(inputs []Output, m Meta) Output {
	n := &node{meta: m, repeat: true}
	for _, o := range inputs {
		n.use(o)
	}
	switch len(n.inputs) {
	case 0:
		return Output{}
	case 1:
		return n.inputs[0]
	}
	n.inherit(n.inputs[0])
	n.addCap(pb.CapMergeOp)
	n.op = func(in func(Output) int64) *pb.Op {
		op := &pb.MergeOp{}
		for _, o := range n.inputs {
			op.Inputs = append(op.Inputs, &pb.MergeInput{Input: in(o)})
		}
		return &pb.Op{Op: &pb.Op_Merge{Merge: op}}
	}
	return Output{node: n}
}

// Diff is what has to be laid over lower to get upper. The difference between scratch
// and upper is upper.
func Diff(lower, upper Output, m Meta) Output {
	if lower.IsScratch() {
		return upper
	}
	n := &node{meta: m, repeat: true}
	n.use(lower)
	n.use(upper)
	n.inherit(lower)
	n.addCap(pb.CapDiffOp)
	n.op = func(in func(Output) int64) *pb.Op {
		return &pb.Op{Op: &pb.Op_Diff{Diff: &pb.DiffOp{
			Lower: &pb.LowerDiffInput{Input: in(lower)},
			Upper: &pb.UpperDiffInput{Input: in(upper)},
		}}}
	}
	return Output{node: n}
}
