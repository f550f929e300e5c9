package llb

import (
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
)

// SourceOps returns the vertices that are sources, each once.
func (g *Graph) SourceOps() []*Vertex {
	var out []*Vertex
	for _, v := range g.Vertices {
		if v.Op.GetSource() != nil {
			out = append(out, v)
		}
	}
	return out
}

// Replace returns the definition of the graph with other sources in it, by the digests of
// those that are replaced. What reads a replaced op reads the new one, so its digest
// changes, too; names and source locations stay with their ops.
func (g *Graph) Replace(sources map[digest.Digest]*pb.SourceOp) (*pb.Definition, error) {
	def := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}, Source: &pb.Source{Infos: g.Sources, Locations: map[string]*pb.Locations{}}}
	if g.Root.Vertex == nil {
		return def, nil
	}
	digests := make(map[*Vertex]digest.Digest, len(g.Vertices))
	for _, v := range g.Vertices {
		raw, err := v.replaced(sources, digests)
		if err != nil {
			return nil, err
		}
		d := digest.FromBytes(raw)
		digests[v] = d
		if md, ok := def.Metadata[string(d)]; ok { // it has become equal to another one
			def.Metadata[string(d)] = mergeMeta(md, v.Meta)
		} else {
			def.Def = append(def.Def, raw)
			def.Metadata[string(d)] = v.Meta
		}
		if len(v.Locations) > 0 {
			l := def.Source.Locations[string(d)]
			if l == nil {
				l = &pb.Locations{}
				def.Source.Locations[string(d)] = l
			}
			l.Locations = append(l.Locations, v.Locations...)
		}
	}
	last, err := proto.Marshal(&pb.Op{Inputs: []*pb.Input{{Digest: string(digests[g.Root.Vertex]), Index: int64(g.Root.Output)}}})
	if err != nil {
		return nil, err
	}
	def.Def = append(def.Def, last)
	return def, nil
}

// replaced returns the bytes of v with what it reads replaced.
func (v *Vertex) replaced(sources map[digest.Digest]*pb.SourceOp, digests map[*Vertex]digest.Digest) ([]byte, error) {
	changed := false
	inputs := make([]*pb.Input, len(v.Inputs))
	for i, in := range v.Inputs {
		d := digests[in.Vertex]
		changed = changed || d != in.Vertex.Digest
		inputs[i] = &pb.Input{Digest: string(d), Index: int64(in.Output)}
	}
	src := sources[v.Digest]
	if !changed && src == nil {
		return v.raw, nil
	}
	op := &pb.Op{Inputs: inputs, Op: v.Op.Op, Platform: v.Op.Platform, Constraints: v.Op.Constraints}
	if src != nil {
		op.Op = &pb.Op_Source{Source: src}
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(op)
}
