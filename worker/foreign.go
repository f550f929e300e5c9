package worker

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"

	"github.com/dbuild/dbuild/cache/buildkit"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/source/git"
	"github.com/dbuild/dbuild/source/http"
	"github.com/moby/buildkit/solver/pb"
)

var (
	_ buildkit.Op = (*sourceOp)(nil)
	_ buildkit.Op = (*execOp)(nil)
	_ buildkit.Op = (*fileOp)(nil)
	_ buildkit.Op = (*mergeOp)(nil)
	_ buildkit.Op = (*diffOp)(nil)
	_ buildkit.Op = (*passthroughOp)(nil)
)

// BuildKit implements buildkit.Op.
func (o *execOp) BuildKit(solver.Spec) (buildkit.Step, bool) {
	if o.proxied {
		return buildkit.Step{}, false // what BuildKit calls by this name may have been made without a proxy
	}
	s, ok, err := buildkit.Exec(o.op, o.platform, o.inputs)
	s.Outputs, s.Read = o.outputs, o.w.readHere
	return s, ok && err == nil
}

// BuildKit implements buildkit.Op.
func (o *fileOp) BuildKit(solver.Spec) (buildkit.Step, bool) {
	s, ok, err := buildkit.File(o.op, o.inputs)
	s.Outputs, s.Read = o.outputs, o.w.readHere
	return s, ok && err == nil
}

// BuildKit implements buildkit.Op.
func (o *mergeOp) BuildKit(solver.Spec) (buildkit.Step, bool) {
	s, err := buildkit.Merge(o.op, o.inputs)
	s.Outputs = 1
	return s, err == nil
}

// BuildKit implements buildkit.Op.
func (o *diffOp) BuildKit(solver.Spec) (buildkit.Step, bool) {
	s, err := buildkit.Diff(o.op, o.inputs)
	s.Outputs = 1
	return s, err == nil
}

// BuildKit implements buildkit.Op.
func (o *passthroughOp) BuildKit(solver.Spec) (buildkit.Step, bool) {
	s, err := buildkit.Passthrough(o.op, o.inputs)
	s.Outputs = len(o.op.Outputs)
	return s, err == nil
}

// errElsewhere says that a result is only promised.
var errElsewhere = errors.New("not all files are here")

// readHere opens a result for a digest that is nice to have: nothing is fetched for it.
func (w *Worker) readHere(ctx context.Context, d solver.Demand, ref solver.Ref) (buildkit.Tree, error) {
	switch r := ref.(type) {
	case *TreeRef:
		return buildkit.Tree{FS: r.tree, Synced: true}, nil
	case *Ref:
		if r.snap == nil {
			return buildkit.Tree{}, nil
		}
		if !r.snap.Here() {
			return buildkit.Tree{}, errElsewhere
		}
	}
	tree, err := w.Files(ctx, w.access(d), ref)
	return buildkit.Tree{FS: tree}, err
}

// foreignHTTP is how BuildKit names a download.
func foreignHTTP(attrs map[string]string, req http.Request, p *http.Pin) func() (buildkit.Step, error) {
	return func() (buildkit.Step, error) {
		mode, err := strconv.ParseInt(cmp.Or(attrs[pb.AttrHTTPPerm], "0"), 0, 32) // not the default that a request has
		if err != nil {
			return buildkit.Step{}, err
		}
		f := buildkit.HTTPFile{
			Name: p.Filename, Mode: int(mode), UID: req.UID, GID: req.GID, Digest: p.Digest,
			AuthHeaderSecret: req.AuthHeaderSecret,
		}
		if p.ModTime != nil {
			t := p.ModTime.UTC()
			f.ModTime = &t
		}
		for _, k := range slices.Sorted(maps.Keys(req.Header)) {
			f.Header = append(f.Header, buildkit.HTTPHeader{Name: k, Value: req.Header[k]})
		}
		return buildkit.HTTP(f)
	}
}

// foreignGit is how BuildKit names a checkout: by a tag object only if the history is kept.
func foreignGit(req git.Request, p *git.Pin) func() (buildkit.Step, error) {
	return func() (buildkit.Step, error) {
		t := buildkit.GitTree{
			ID: p.Commit, Ref: cmp.Or(p.Ref, p.Object), Subdir: req.Subdir, KeepGitDir: req.KeepGitDir,
			SkipSubmodules: req.SkipSubmodules, CommitTime: req.CommitTime, Bundle: req.CheckoutBundle,
		}
		if req.KeepGitDir {
			t.ID = p.Object
		}
		return buildkit.Git(t), nil
	}
}
