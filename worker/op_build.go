package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"
)

const (
	// maxNested bounds nested builds in nested builds.
	maxNested = 8
	// maxDefinition is the size of a definition that is read from a file, in bytes.
	maxDefinition = 32 << 20
)

// buildOp builds a definition that is in a file of its input. What that means can change
// although the file does not, with the tag of an image, so it is never taken from the cache.
type buildOp struct {
	w      *Worker
	id     solver.ID
	inputs int
	input  int    // that has the file
	file   string // without leading slash
	opt    LoadOptions
}

func newBuildOp(w *Worker, v *llb.Vertex, op *pb.BuildOp, opt LoadOptions) (*buildOp, error) {
	in := op.Inputs[pb.LLBDefinitionInput]
	switch {
	case op.Builder != int64(pb.LLBBuilder):
		return nil, errors.New("not implemented: nested builds with a builder of their own")
	case in == nil:
		return nil, invalid("a nested build needs the input %s, which has its definition", pb.LLBDefinitionInput)
	case opt.nested == maxNested:
		return nil, invalid("nested builds are nested too deeply: %d are allowed", maxNested)
	}
	o := &buildOp{w: w, inputs: len(v.Inputs), input: int(in.Input), file: op.Attrs[pb.AttrLLBDefinitionFilename], opt: opt}
	o.opt.nested++
	if o.file == "" {
		o.file = pb.LLBDefaultDefinitionFile
	}
	o.file = strings.TrimPrefix(path.Clean("/"+o.file), "/")
	var err error
	o.id, err = opID("build", v.Op)
	return o, err
}

func (o *buildOp) Spec(context.Context, solver.Demand) (solver.Spec, error) {
	return solver.Spec{ID: o.id, Slots: make([]solver.Slot, o.inputs)}, nil
}

func (o *buildOp) Run(ctx context.Context, d solver.Demand, _ solver.Spec, in []solver.Ref) ([]solver.Ref, error) {
	def, err := o.definition(ctx, d, in[o.input])
	if err != nil {
		return nil, fmt.Errorf("nested build: %s: %w", o.file, err)
	}
	g, err := o.opt.Nested(ctx, def)
	if err != nil {
		return nil, fmt.Errorf("nested build: %s: %w", o.file, err)
	}
	edge, ok, err := o.w.Load(g, o.opt)
	if err != nil {
		return nil, err
	}
	if !ok {
		return []solver.Ref{NewRef(nil)}, nil
	}
	for j := range d.Jobs() {
		res, err := j.Build(ctx, edge)
		if err != nil {
			return nil, err
		}
		return []solver.Ref{res.Ref}, nil
	}
	return nil, context.Canceled // nobody wants it any more
}

// definition reads the file.
func (o *buildOp) definition(ctx context.Context, d solver.Demand, r solver.Ref) (*pb.Definition, error) {
	tree, err := o.w.Files(ctx, o.w.access(d), r)
	if err != nil {
		return nil, err
	}
	name, err := treehash.Resolve(tree, o.file, true)
	if err != nil {
		return nil, lost(r, err)
	}
	st, err := tree.Lstat(name)
	if err != nil {
		return nil, lost(r, err)
	}
	if !fs.FileMode(st.Mode).IsRegular() || st.Size > maxDefinition {
		return nil, invalid("not a file with at most %d bytes", maxDefinition)
	}
	f, err := tree.Open(name)
	if err != nil {
		return nil, lost(r, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxDefinition))
	if err != nil {
		return nil, err
	}
	def := &pb.Definition{}
	if err := proto.Unmarshal(b, def); err != nil {
		return nil, invalid("not a definition: %v", err)
	}
	return def, nil
}
