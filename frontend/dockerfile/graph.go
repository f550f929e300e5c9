package dockerfile

import (
	"context"
	"errors"

	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/llb"
)

// An output is an llb.Output that is not made before it is wanted: which paths of a
// local directory are read is known only when all stages are lowered. The zero output is
// an empty filesystem.
type output struct{ v *vertex }

type vertex struct {
	make func() llb.Output
	out  llb.Output // once make is nil
}

func later(f func() llb.Output) output { return output{&vertex{make: f}} }

func ready(o llb.Output) output { return output{&vertex{out: o}} }

// llb makes the output. It is for after lowering, from one goroutine.
func (o output) llb() llb.Output {
	if o.v == nil {
		return llb.Output{}
	}
	if f := o.v.make; f != nil {
		o.v.out, o.v.make = f(), nil
	}
	return o.v.out
}

// An action is a copy from an output that is made later, or any other action.
type action struct {
	from  output
	copy  llb.Copy
	other llb.FileAction
}

func fileOp(base output, m llb.Meta, actions ...action) output {
	return later(func() llb.Output {
		list := make([]llb.FileAction, len(actions))
		for i, a := range actions {
			if list[i] = a.other; a.other == nil {
				a.copy.From = a.from.llb()
				list[i] = a.copy
			}
		}
		return llb.File(base.llb(), list, m)
	})
}

func mergeOp(m llb.Meta, outs ...output) output {
	return later(func() llb.Output {
		list := make([]llb.Output, len(outs))
		for i, o := range outs {
			list[i] = o.llb()
		}
		return llb.Merge(list, m)
	})
}

// An exec is an exec op whose inputs are made later.
type exec struct {
	llb.ExecOptions
	root   output
	mounts []mount
}

type mount struct {
	llb.Mount
	from output
}

func execOp(e *exec, m llb.Meta) output {
	return later(func() llb.Output {
		o := e.ExecOptions
		o.Root = e.root.llb()
		for _, mt := range e.mounts {
			mt.Source = mt.from.llb()
			o.Mounts = append(o.Mounts, mt.Mount)
		}
		return llb.Exec(o, m).Root()
	})
}

// meta describes a vertex that an instruction makes.
func (b *build) meta(s *stage, at *instruction.Pos, name string) llb.Meta {
	return llb.Meta{
		Name:        name,
		IgnoreCache: s.noCache,
		Locations:   b.locations(at),
	}
}

func (b *build) locations(at *instruction.Pos) []*llb.SourceLocation {
	p := b.loader.spot(at.Ranges)
	return []*llb.SourceLocation{{File: p.info, Ranges: p.ranges}}
}

// command is the description of a vertex that holds its line of the Dockerfile.
func command(source string) map[string]string {
	return map[string]string{"com.docker.dockerfile.v1.command": source}
}

func marshal(ctx context.Context, o output, p ocispec.Platform) (*pb.Definition, error) {
	return llb.Marshal(ctx, o.llb(), p)
}

func fromDefinition(def *pb.Definition) (output, error) {
	if len(def.GetDef()) == 0 && len(def.GetMetadata()) == 0 {
		return output{}, errors.New("invalid nil input definition to definition op")
	}
	o, err := llb.FromDefinition(def, llb.Limits{})
	return ready(o), err
}
