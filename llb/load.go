package llb

import (
	"cmp"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
)

// Limits bound what Load accepts. Zero fields mean the defaults.
type Limits struct {
	Ops   int // operations; 20,000
	Bytes int // of all marshalled operations; 32 MiB
	Depth int // of the longest chain; 12,000
}

const (
	defaultOps   = 20_000
	defaultBytes = 32 << 20
	defaultDepth = 12_000
)

// A Graph is a definition that has been checked. It is read-only.
type Graph struct {
	Root     Edge             // Root.Vertex is nil for an empty filesystem
	Vertices []*Vertex        // what Root needs, inputs before their readers
	Sources  []*pb.SourceInfo // the files that Locations point into
}

// An Edge is one output of a vertex.
type Edge struct {
	Vertex *Vertex
	Output int
}

// A Vertex is one operation. Op has inputs in the order of Inputs; every index in it is
// in range, and no message in it that is needed is nil.
type Vertex struct {
	Digest    digest.Digest
	Op        *pb.Op
	Inputs    []Edge
	Outputs   int            // how many outputs it has
	Meta      *pb.OpMetadata // not nil
	Locations []*pb.Location // SourceIndex is an index of Graph.Sources

	raw   []byte
	depth int // operations in the longest chain that ends here
}

// Load checks a definition and returns its graph. It takes time linear in the size of
// the definition. Operations that the result does not need are left out, and equal
// ones are one vertex. Errors name the operation and are errdefs.ErrInvalidArgument; none
// is worth a retry.
func Load(def *pb.Definition, lim Limits) (*Graph, error) {
	g, err := load(def, lim)
	if err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	return g, nil
}

func load(def *pb.Definition, lim Limits) (*Graph, error) {
	lim = Limits{
		Ops:   cmp.Or(lim.Ops, defaultOps),
		Bytes: cmp.Or(lim.Bytes, defaultBytes),
		Depth: cmp.Or(lim.Depth, defaultDepth),
	}
	if len(def.GetDef()) == 0 {
		return &Graph{}, nil
	}
	if len(def.Def)-1 > lim.Ops {
		return nil, fmt.Errorf("the build graph has %d operations, more than the %d that are allowed", len(def.Def)-1, lim.Ops)
	}
	size := 0
	for _, dt := range def.Def {
		size += len(dt)
	}
	if size > lim.Bytes {
		return nil, fmt.Errorf("the build graph takes %d bytes, more than the %d that are allowed", size, lim.Bytes)
	}
	l := &loader{def: def, lim: lim, all: make(map[digest.Digest]*Vertex, len(def.Def))}
	last, err := l.parse()
	if err != nil {
		return nil, err
	}
	return l.graph(last)
}

type loader struct {
	def   *pb.Definition
	lim   Limits
	all   map[digest.Digest]*Vertex
	order []*Vertex
}

// parse reads every op and returns the last one, which says where the graph leads.
func (l *loader) parse() (last *pb.Op, _ error) {
	for i, dt := range l.def.Def {
		op := &pb.Op{}
		// Not the faster generated decoder: that one follows nested messages however
		// deep they are.
		if err := proto.Unmarshal(dt, op); err != nil {
			return nil, fmt.Errorf("operation %d of the build graph is not readable: %w", i, err)
		}
		if i == len(l.def.Def)-1 {
			return op, nil
		}
		dgst := digestOf(dt)
		if l.all[dgst] != nil {
			continue
		}
		v := &Vertex{Digest: dgst, Op: op, raw: dt, Meta: l.def.Metadata[string(dgst)]}
		if v.Meta == nil {
			v.Meta = &pb.OpMetadata{}
		}
		l.all[dgst] = v
	}
	return last, nil
}

func (l *loader) graph(last *pb.Op) (*Graph, error) {
	if last.Op != nil || len(last.Inputs) != 1 || last.Inputs[0] == nil {
		return nil, fmt.Errorf("the build graph does not end in a result: its last operation must have one input and nothing to do")
	}
	in := last.Inputs[0]
	root, ok := l.all[digest.Digest(in.Digest)]
	if !ok {
		return nil, fmt.Errorf("the result of the build graph is operation %s, which it lacks", shorten(in.Digest))
	}
	if err := l.walk(root); err != nil {
		return nil, err
	}
	if in.Index < 0 || in.Index >= int64(root.Outputs) {
		return nil, fmt.Errorf("the result of the build graph is output %d of %s, which has %d", in.Index, name(root), root.Outputs)
	}
	g := &Graph{Root: Edge{Vertex: root, Output: int(in.Index)}, Vertices: l.order, Sources: l.def.GetSource().GetInfos()}
	return g, l.locate(g)
}

// walk visits what root needs, inputs first, and checks each vertex once its inputs are
// known to be good. It keeps its own stack: depth is checked, not trusted.
func (l *loader) walk(root *Vertex) error {
	const open = -1 // depth of a vertex that is on the stack
	type frame struct {
		v    *Vertex
		next int
	}
	root.depth = open
	stack := []frame{{v: root}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		v := top.v
		if top.next < len(v.Op.Inputs) {
			in := v.Op.Inputs[top.next]
			top.next++
			sub, ok := l.all[digest.Digest(in.GetDigest())]
			if !ok {
				return fmt.Errorf("%s reads operation %s, which the build graph lacks", name(v), shorten(in.GetDigest()))
			}
			switch sub.depth {
			case 0:
				sub.depth = open
				stack = append(stack, frame{v: sub})
			case open: // needs a collision of digests
				return fmt.Errorf("%s reads its own result", name(v))
			}
			continue
		}
		if err := l.finish(v); err != nil {
			return err
		}
		stack = stack[:len(stack)-1]
	}
	return nil
}

func (l *loader) finish(v *Vertex) error {
	v.depth = 1
	v.Inputs = make([]Edge, len(v.Op.Inputs))
	for i, in := range v.Op.Inputs {
		sub := l.all[digest.Digest(in.Digest)]
		if in.Index < 0 || in.Index >= int64(sub.Outputs) {
			return fmt.Errorf("%s reads output %d of %s, which has %d", name(v), in.Index, name(sub), sub.Outputs)
		}
		v.Inputs[i] = Edge{Vertex: sub, Output: int(in.Index)}
		v.depth = max(v.depth, sub.depth+1)
	}
	if v.depth > l.lim.Depth {
		return fmt.Errorf("the build graph has a chain of more than the %d operations that are allowed", l.lim.Depth)
	}
	for c := range v.Meta.Caps {
		if err := knownCaps.Supports(capID(c)); err != nil {
			return fmt.Errorf("%s needs the capability %q, which this builder does not have", name(v), c)
		}
	}
	var err error
	if v.Outputs, err = check(v.Op); err != nil {
		return fmt.Errorf("%s: %w", name(v), err)
	}
	l.order = append(l.order, v)
	return nil
}

// locate attaches the source locations of the graph's vertices.
func (l *loader) locate(g *Graph) error {
	src := l.def.GetSource()
	for i, info := range src.GetInfos() {
		if info == nil {
			return fmt.Errorf("source file %d of the build graph is empty", i)
		}
	}
	for dgst, locs := range src.GetLocations() {
		v := l.all[digest.Digest(dgst)]
		if v == nil {
			continue
		}
		for _, loc := range locs.GetLocations() {
			if loc == nil || loc.SourceIndex < 0 || int(loc.SourceIndex) >= len(g.Sources) {
				return fmt.Errorf("%s comes from a source file that the build graph lacks", name(v))
			}
			v.Locations = append(v.Locations, loc)
		}
	}
	return nil
}

// name is what an error calls a vertex.
func name(v *Vertex) string {
	if n := v.Meta.GetDescription()["llb.customname"]; n != "" {
		return fmt.Sprintf("%q", n)
	}
	return "operation " + shorten(string(v.Digest))
}

// shorten makes a digest as long as people need.
func shorten(d string) string {
	if algorithm, hex, ok := cutDigest(d); ok {
		return algorithm + ":" + hex[:12]
	}
	return fmt.Sprintf("%q", d[:min(len(d), 12)])
}

func cutDigest(d string) (algorithm, hex string, ok bool) {
	parsed, err := digest.Parse(d)
	if err != nil {
		return "", "", false
	}
	return string(parsed.Algorithm()), parsed.Encoded(), true
}
