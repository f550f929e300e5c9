package llb

import (
	"github.com/moby/buildkit/solver/pb"
)

// FromDefinition makes nodes of a definition that something else built, so that it can
// be part of a new graph. Its ops keep their bytes, digests, metadata and source
// locations. The definition must not be changed afterwards.
func FromDefinition(def *pb.Definition, lim Limits) (Output, error) {
	g, err := Load(def, lim)
	if err != nil {
		return Output{}, err
	}
	return g.Output(), nil
}

// Output makes nodes of a loaded graph; see FromDefinition.
func (g *Graph) Output() Output {
	nodes := make(map[*Vertex]*node, len(g.Vertices))
	for _, v := range g.Vertices {
		n := &node{raw: v.raw, rawMeta: v.Meta}
		if v.Op.Platform != nil {
			p := v.Op.Platform.Spec()
			n.platform = &p
		}
		for _, in := range v.Inputs {
			n.inputs = append(n.inputs, Output{node: nodes[in.Vertex], index: in.Output})
		}
		for _, l := range v.Locations {
			n.rawSources = append(n.rawSources, &SourceLocation{File: g.file(l), Ranges: l.Ranges})
		}
		nodes[v] = n
	}
	return g.outputOf(nodes)
}

func (g *Graph) outputOf(nodes map[*Vertex]*node) Output {
	if g.Root.Vertex == nil {
		return Output{}
	}
	return Output{node: nodes[g.Root.Vertex], index: g.Root.Output}
}

func (g *Graph) file(l *pb.Location) *pb.SourceInfo { return g.Sources[l.SourceIndex] }
