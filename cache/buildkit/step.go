package buildkit

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/dbuild/dbuild/solver"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// A Step is how BuildKit identifies an operation apart from what it is made from.
type Step struct {
	Digest  digest.Digest
	Inputs  []Input
	Outputs int
	// Read opens an input for Sum, if its files are here. The functions of this package
	// leave it to others to set it, and Outputs.
	Read func(context.Context, solver.Demand, solver.Ref) (Tree, error)
}

// An Op is an operation that may have a name in BuildKit.
type Op interface {
	// BuildKit returns what BuildKit calls the operation; ok is false if that is not known.
	BuildKit(solver.Spec) (_ Step, ok bool)
}

// Name asks an operation for its name.
func Name(op solver.Op, spec solver.Spec) (Step, bool) {
	if op, ok := op.(Op); ok {
		return op.BuildKit(spec)
	}
	return Step{}, false
}

// Slot returns how the content of input i is digested, or ok false if that does not count.
func (s Step) Slot(i int) (_ solver.Slot, ok bool) {
	parts := s.Inputs[i].Content
	if len(parts) == 0 || s.Read == nil {
		return solver.Slot{}, false
	}
	part, err := identity(struct {
		Kind  string
		Parts []Selector
	}{"dbuild-buildkit-part-1", parts})
	if err != nil {
		return solver.Slot{}, false
	}
	return solver.Slot{
		Part: solver.Part(raw(part)),
		Content: func(ctx context.Context, d solver.Demand, ref solver.Ref) (solver.Sum, error) {
			tree, err := s.Read(ctx, d, ref)
			if err != nil {
				return solver.Sum{}, err
			}
			sum, err := Sum(ctx, tree, parts)
			if err != nil {
				return solver.Sum{}, err
			}
			return solver.Sum(raw(sum)), nil
		},
	}, true
}

// raw returns the bytes of a digest that this package computed.
func raw(d digest.Digest) (out [32]byte) {
	_, _ = hex.Decode(out[:], []byte(d.Encoded()))
	return out
}

// An Input is how a step reads one of its inputs.
type Input struct {
	// Selector goes with links to outputs; "" for all of it.
	Selector digest.Digest
	// Content lists what Sum is to digest, if the input may be known by its content.
	Content []Selector
}

// A Selector names a part of a tree. A part without wildcard and patterns is one path with
// all that is beneath it.
type Selector struct {
	Path             string
	Wildcard         bool
	FollowLinks      bool
	Include, Exclude []string
}

func (s Selector) plain() bool { return !s.Wildcard && len(s.Include) == 0 && len(s.Exclude) == 0 }

// Record is the digest of the record of one output of a step.
func Record(step digest.Digest, output int) digest.Digest {
	return digest.FromString(step.String() + "@" + strconv.Itoa(output))
}

// ContentRecord is the digest of the record of what Sum returned.
func ContentRecord(sum solver.Sum) digest.Digest {
	return Record(digest.NewDigestFromBytes(digest.SHA256, sum[:]), -1)
}

// An identity is what a step's digest is made of.
func identity(v any) (digest.Digest, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("name a step as BuildKit does: %w", err)
	}
	return digest.FromBytes(b), nil
}

// Merge identifies a merge.
func Merge(op *pb.MergeOp, inputs int) (Step, error) {
	d, err := identity(struct {
		Type  string
		Merge *pb.MergeOp
	}{"buildkit.merge.v0", op})
	return Step{Digest: d, Inputs: make([]Input, inputs)}, err
}

// Diff identifies a diff.
func Diff(op *pb.DiffOp, inputs int) (Step, error) {
	d, err := identity(struct {
		Type string
		Diff *pb.DiffOp
	}{"buildkit.diff.v0", op})
	return Step{Digest: d, Inputs: make([]Input, inputs)}, err
}

// Passthrough identifies an operation that gives its inputs on.
func Passthrough(op *pb.PassthroughOp, inputs int) (Step, error) {
	d, err := identity(struct {
		Type        string
		Passthrough *pb.PassthroughOp
	}{"buildkit.passthrough.v0", op})
	return Step{Digest: d, Inputs: make([]Input, inputs)}, err
}

// outermost leaves out paths beneath others of the list, and sorts it. One path stays as
// it is.
func outermost(paths []string) []string {
	if len(paths) < 2 {
		return paths
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(paths)))
	var out []string
	for _, p := range sorted {
		if !slices.ContainsFunc(sorted, func(q string) bool {
			return p != q && strings.HasPrefix(p, strings.TrimSuffix(q, "/")+"/")
		}) {
			out = append(out, p)
		}
	}
	return out
}
