package provenance

import (
	"fmt"

	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// describe adds steps, sources and layers.
func (c *Capture) describe(o *attest.Provenance, in *internal, bk *buildkit) {
	if c.Graph == nil || c.Graph.Root.Vertex == nil {
		return
	}
	var names map[*llb.Vertex]string
	in.BuildConfig, names = stepsOf(c.Graph)
	if o.CaptureUsage {
		for i, v := range c.Graph.Vertices {
			if u := c.Usage[v.Digest]; u != nil {
				in.BuildConfig.Definition[i].Usage = &samples{u}
			}
		}
	}
	bk.Source = sourcesOf(c.Graph, names)
	for edge, layers := range c.Layers {
		if names[edge.Vertex] == "" || len(layers) == 0 {
			continue
		}
		if bk.Layers == nil {
			bk.Layers = map[string][][]ocispec.Descriptor{}
		}
		bk.Layers[output(names, edge)] = [][]ocispec.Descriptor{layers}
	}
}

// stepsOf lists a graph, and last what it comes to.
func stepsOf(g *llb.Graph) (*steps, map[*llb.Vertex]string) {
	names := make(map[*llb.Vertex]string, len(g.Vertices))
	out := &steps{Digests: make(map[digest.Digest]string, len(g.Vertices))}
	for i, v := range g.Vertices {
		names[v] = fmt.Sprintf("step%d", i)
		out.Digests[v.Digest] = names[v]
		// What an operation reads is said beside it, by name.
		s := step{ID: names[v], Op: &pb.Op{Op: v.Op.Op, Platform: v.Op.Platform, Constraints: v.Op.Constraints}}
		for _, in := range v.Inputs {
			s.Inputs = append(s.Inputs, output(names, in))
		}
		out.Definition = append(out.Definition, s)
	}
	out.Definition = append(out.Definition, step{
		ID: fmt.Sprintf("step%d", len(g.Vertices)), Op: &pb.Op{}, Inputs: []string{output(names, g.Root)},
	})
	return out, names
}

func output(names map[*llb.Vertex]string, e llb.Edge) string {
	return fmt.Sprintf("%s:%d", names[e.Vertex], e.Output)
}

// sourcesOf lists the files that a graph was made from, each once: graphs that were put
// together may have it several times.
func sourcesOf(g *llb.Graph, names map[*llb.Vertex]string) *sources {
	type file struct{ name, language, data string }
	out := &sources{Locations: map[string]*pb.Locations{}}
	seen := map[file]int32{}
	index := make([]int32, len(g.Sources))
	for i, f := range g.Sources {
		key := file{f.GetFilename(), f.GetLanguage(), string(f.GetData())}
		n, ok := seen[key]
		if !ok {
			n = int32(len(out.Infos))
			seen[key] = n
			info := sourceInfo{Filename: key.name, Language: key.language, Data: attest.RedactBytes(f.GetData())}
			if from, err := llb.Load(f.GetDefinition(), llb.Limits{}); err == nil && from.Root.Vertex != nil {
				s, _ := stepsOf(from)
				info.steps = *s
			}
			out.Infos = append(out.Infos, info)
		}
		index[i] = n
	}
	for _, v := range g.Vertices {
		l := &pb.Locations{}
		for _, loc := range v.Locations {
			l.Locations = append(l.Locations, &pb.Location{SourceIndex: index[loc.SourceIndex], Ranges: loc.Ranges})
		}
		if len(l.Locations) > 0 {
			out.Locations[names[v]] = l
		}
	}
	return out
}
