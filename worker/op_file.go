package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"

	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker/fileop"
	"github.com/moby/buildkit/solver/pb"
)

// fileOp carries out file actions. Each action works on an input or on the result of an
// earlier action; copies read from another input.
type fileOp struct {
	w       *Worker
	op      *pb.FileOp
	id      solver.ID
	inputs  int
	outputs int
	name    string
	reads   llb.Reads
	uses    []int // of the result of each action, by others
}

func newFileOp(w *Worker, v *llb.Vertex, f *pb.FileOp) (*fileOp, error) {
	o := &fileOp{w: w, op: f, inputs: len(v.Inputs), outputs: v.Outputs, name: vertexName(v), reads: llb.ReadsOf(v.Meta.GetDescription(), ""), uses: make([]int, len(f.Actions))}
	id, err := opID("file", v.Op)
	if err != nil {
		return nil, err
	}
	o.id = id
	use := func(i int64) {
		if n := int(i) - o.inputs; n >= 0 {
			o.uses[n]++
		}
	}
	for _, a := range f.Actions {
		use(a.Input)
		if a.GetCopy() != nil {
			use(a.SecondaryInput)
		}
		for _, n := range named(owner(a)) {
			use(n.GetInput())
		}
	}
	return o, nil
}

// parts are what copies read of input i, or ok false if it is read in another way too.
func (o *fileOp) parts(i int) (parts []treehash.Part, ok bool) {
	for _, a := range o.op.Actions {
		if int(a.Input) == i || namedIn(owner(a), i) {
			return nil, false
		}
		c := a.GetCopy()
		if c == nil || int(a.SecondaryInput) != i {
			continue
		}
		parts = append(parts, copied(c))
	}
	return parts, len(parts) > 0
}

// copied is the part of its source that a copy reads.
func copied(c *pb.FileActionCopy) treehash.Part {
	return treehash.Part{
		Path: c.Src, Wildcard: c.AllowWildcard, FollowLinks: c.FollowSymlink, AllowNoMatch: c.AllowEmptyWildcard,
		Include: c.IncludePatterns, Exclude: c.ExcludePatterns,
	}
}

// present reports whether a tree has anything of a part.
func present(ctx context.Context, tree treehash.FS, p treehash.Part) bool {
	_, err := treehash.Match(ctx, tree, p)
	return err == nil
}

func owner(a *pb.FileAction) *pb.ChownOpt {
	switch a := a.Action.(type) {
	case *pb.FileAction_Copy:
		return a.Copy.Owner
	case *pb.FileAction_Mkfile:
		return a.Mkfile.Owner
	case *pb.FileAction_Mkdir:
		return a.Mkdir.Owner
	case *pb.FileAction_Symlink:
		return a.Symlink.Owner
	}
	return nil
}

// named returns what of an owner is a name, to be looked up.
func named(o *pb.ChownOpt) (names []*pb.NamedUserOpt) {
	for _, u := range []*pb.UserOpt{o.GetUser(), o.GetGroup()} {
		if n := u.GetByName(); n != nil {
			names = append(names, n)
		}
	}
	return names
}

func namedIn(o *pb.ChownOpt, i int) bool {
	return slices.ContainsFunc(named(o), func(n *pb.NamedUserOpt) bool { return int(n.Input) == i })
}

func (o *fileOp) Spec(context.Context, solver.Demand) (solver.Spec, error) {
	slots := make([]solver.Slot, o.inputs)
	for i := range slots {
		if parts, ok := o.parts(i); ok {
			slots[i] = o.w.contentSlot(i, parts, o.reads)
		}
	}
	return solver.Spec{ID: o.id, Slots: slots}, nil
}

// contentSlot keys input i by the content of parts of it; reads is for the error if one is
// missing.
func (w *Worker) contentSlot(i int, parts []treehash.Part, reads llb.Reads) solver.Slot {
	var ids [][]byte
	for _, p := range parts {
		id := p.ID()
		ids = append(ids, id[:])
	}
	return solver.Slot{
		Part: hash("parts", ids...),
		Content: func(ctx context.Context, d solver.Demand, r solver.Ref) (solver.Sum, error) {
			tree, err := w.Files(ctx, w.access(d), r)
			if err != nil {
				return solver.Sum{}, err
			}
			var sums [][]byte
			for _, p := range parts {
				s, err := treehash.Sum(ctx, tree, p)
				if err != nil {
					err = lost(r, missing(ctx, d, err, p.Path, reads, r, tree))
					var gone *solver.LostError
					if ctx.Err() != nil || errors.As(err, &gone) {
						return solver.Sum{}, err
					}
					return solver.Sum{}, fail(d, &Failure{Err: err, Action: -1, Input: i, Inputs: []solver.Ref{r}}, nil)
				}
				sums = append(sums, s[:])
			}
			return hash("sums", sums...), nil
		},
	}
}

// fileState is what an input or an action left: a result, or a draft that the next action
// may go on with.
type fileState struct {
	ref   solver.Ref // nil while there is a draft, and for scratch
	draft *snapshot.Draft
	dest  *fileop.Dest
	owned bool // ref is ours to release
}

func (o *fileOp) Run(ctx context.Context, d solver.Demand, _ solver.Spec, in []solver.Ref) (_ []solver.Ref, err error) {
	r := &fileRun{op: o, d: d, states: make([]*fileState, o.inputs, o.inputs+len(o.op.Actions)), out: make([]solver.Ref, o.outputs)}
	for i, ref := range in {
		r.states[i] = &fileState{ref: ref}
	}
	defer func() { r.close(err != nil) }()
	for i, a := range o.op.Actions {
		if err := r.action(ctx, i, a); err != nil {
			var gone *solver.LostError
			if ctx.Err() != nil || errors.As(err, &gone) {
				return nil, err
			}
			return nil, fail(d, &Failure{Err: err, Action: i, Input: -1, Inputs: in}, func() []solver.Ref { return r.left(ctx) })
		}
	}
	for i, ref := range r.out {
		if ref == nil {
			return nil, fmt.Errorf("output %d belongs to no file action", i)
		}
	}
	return r.out, nil
}

// fileRun is one run of a fileOp.
type fileRun struct {
	op     *fileOp
	d      solver.Demand
	states []*fileState // inputs, then results of actions
	out    []solver.Ref
}

func (r *fileRun) close(failed bool) {
	for _, s := range r.states {
		if s.draft != nil {
			s.draft.Discard()
		}
		if s.owned && s.ref != nil {
			s.ref.Release()
		}
	}
	if failed {
		for _, ref := range r.out {
			if ref != nil {
				ref.Release()
			}
		}
	}
}

// left makes results of what the actions have done so far, by their number.
func (r *fileRun) left(ctx context.Context) []solver.Ref {
	out := make([]solver.Ref, len(r.op.op.Actions))
	for i, s := range r.states[r.op.inputs:] {
		if s.draft == nil && s.ref == nil {
			continue // a later action went on with it
		}
		if ref, err := r.commit(ctx, s); err == nil && ref != nil {
			out[i] = ref.Retain()
		}
	}
	return out
}

func (r *fileRun) action(ctx context.Context, i int, a *pb.FileAction) error {
	target, err := r.target(ctx, a.Input)
	if err != nil {
		return err
	}
	r.states = append(r.states, target)
	opt := fileop.Options{}
	var from solver.Ref
	if a.GetCopy() != nil {
		if from, opt.Source, err = r.read(ctx, a.SecondaryInput); err != nil {
			return err
		}
		var layers *snapshot.Ref
		if l, ok := from.(*Ref); ok {
			layers = l.snap
		}
		opt.Link = target.draft.Links(layers).May
	}
	opt.Owner, err = fileop.LookUp(owner(a), func(input int64) (treehash.FS, error) {
		_, tree, err := r.read(ctx, input)
		return tree, err
	})
	if err != nil {
		return err
	}
	if err := fileop.Run(ctx, target.dest, a, opt); err != nil {
		if c := a.GetCopy(); c != nil {
			err = r.absent(ctx, err, c, from, opt.Source)
		}
		return lost(from, err)
	}
	if a.Output < 0 {
		return nil
	}
	ref, err := r.commit(ctx, target)
	if err != nil {
		return err
	}
	r.out[a.Output] = ref.Retain()
	return nil
}

// absent explains why a copy failed, if that is because its source is not there. It may
// also be that the destination is missing.
func (r *fileRun) absent(ctx context.Context, err error, c *pb.FileActionCopy, from solver.Ref, tree treehash.FS) error {
	var no *fileop.NotFoundError
	if errors.As(err, &no) && slices.ContainsFunc(c.RequiredPaths, func(p string) bool { return path.Join("/", p) == no.Path }) {
		m := &MissingError{Path: no.Path}
		_ = errors.As(missing(ctx, r.d, fs.ErrNotExist, no.Path, r.op.reads, from, tree), &m)
		return m
	}
	if present(ctx, tree, copied(c)) {
		return err
	}
	err = missing(ctx, r.d, err, c.Src, r.op.reads, from, tree)
	var m *MissingError
	if errors.As(err, &m) {
		m.Copying = true
	}
	return err
}

// target returns a state to write to: the draft of an earlier action that nobody else
// needs, or a new draft on top of what input is.
func (r *fileRun) target(ctx context.Context, input int64) (*fileState, error) {
	var base *snapshot.Ref
	var tree treehash.FS
	if input >= 0 {
		s := r.states[input]
		n := int(input) - r.op.inputs
		if s.draft != nil && n >= 0 && r.op.uses[n] == 1 {
			next := &fileState{draft: s.draft, dest: s.dest}
			s.draft = nil
			return next, nil
		}
		ref, err := r.commit(ctx, s)
		if err != nil {
			return nil, err
		}
		if ref != nil {
			if tree, err = r.op.w.Files(ctx, r.op.w.access(r.d), ref); err != nil {
				return nil, err
			}
			if base, err = r.op.w.Layers(ctx, ref); err != nil {
				return nil, err
			}
			defer base.Release()
		}
	}
	draft, err := r.op.w.Store.NewDraft(ctx, base, snapshot.Desc{Description: r.op.name})
	if err != nil {
		return nil, err
	}
	return &fileState{draft: draft, dest: fileop.NewDest(draft.Upper(), tree)}, nil
}

// read returns an input or the result of an earlier action as a tree; -1 is scratch.
func (r *fileRun) read(ctx context.Context, input int64) (solver.Ref, treehash.FS, error) {
	if input < 0 {
		return nil, treehash.Empty, nil
	}
	ref, err := r.commit(ctx, r.states[input])
	if err != nil {
		return nil, nil, err
	}
	tree, err := r.op.w.Files(ctx, r.op.w.access(r.d), ref)
	return ref, tree, err
}

// commit makes a result of a state that is still a draft.
func (r *fileRun) commit(ctx context.Context, s *fileState) (solver.Ref, error) {
	if s.draft == nil {
		return s.ref, nil
	}
	snap, err := s.draft.Commit(ctx)
	if err != nil {
		return nil, err // close discards it
	}
	s.draft = nil
	r.op.w.warm(r.d, snap)
	s.ref, s.owned = NewRef(snap), true
	return s.ref, nil
}
