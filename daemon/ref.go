package daemon

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker"
	"github.com/moby/buildkit/solver/pb"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// maxLost is how often a result is made again because it was lost.
const maxLost = 2

// maxReadFile bounds what a frontend may read at once, in bytes: it must fit one message.
const maxReadFile = 14 << 20

// A ref is a lazy result of a build, seen through the bridge.
type ref struct {
	b     *build
	def   *pb.Definition
	graph *llb.Graph
	edge  solver.Edge
	empty bool
	asked *question // in the course of which it was made; nil if nobody asked

	mu  sync.Mutex
	res solver.Ref // once built; held by the build
}

// Definition implements frontend.Ref.
func (r *ref) Definition() *pb.Definition { return r.def }

// Evaluate implements frontend.Ref.
func (r *ref) Evaluate(ctx context.Context) error {
	_, err := r.result(ctx)
	return err
}

// result builds r. It returns nil for an empty filesystem.
func (r *ref) result(ctx context.Context) (solver.Ref, error) {
	if r.empty {
		return nil, nil
	}
	r.mu.Lock()
	res := r.res
	r.mu.Unlock()
	if res != nil {
		return res, nil
	}
	if len(r.edge.Vertex.Inputs) > 0 { // a source is quicker had than looked up elsewhere
		if err := r.b.imports.await(ctx); err != nil {
			return nil, err
		}
	}
	out, err := r.b.job.Build(ctx, r.edge)
	if err != nil {
		return nil, r.b.locate(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.res != nil {
		out.Ref.Release()
		return r.res, nil
	}
	r.res = out.Ref
	r.b.hold(out.Ref)
	return out.Ref, nil
}

// forget drops what r was built to if a layer of it is the one that is lost, so that it is
// built again. It reports whether it did.
func (r *ref) forget(layer string) bool {
	r.mu.Lock()
	res, ok := r.res.(*worker.Ref)
	ok = ok && res.Snapshot() != nil && slices.Contains(res.Snapshot().LayerIDs(), layer)
	if ok {
		r.res = nil // the build still holds it
	}
	r.mu.Unlock()
	if ok {
		r.b.job.Forget(res)
	}
	return ok
}

// open builds r and opens it.
func (r *ref) open(ctx context.Context) (treehash.FS, error) {
	for try := 0; ; try++ {
		res, err := r.result(ctx)
		if err != nil || res == nil {
			return treehash.Empty, err
		}
		tree, err := r.b.d.worker.Files(ctx, snapshot.Access{Group: r.b.group()}, res)
		var lost *snapshot.LostError
		if errors.As(err, &lost) && try < maxLost && r.forget(lost.LayerID) {
			continue
		}
		return tree, err
	}
}

// ReadFile implements frontend.Ref.
func (r *ref) ReadFile(ctx context.Context, p string, offset, length int64) ([]byte, error) {
	tree, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	return readPart(tree, p, offset, length)
}

// ReadDir implements frontend.Ref.
func (r *ref) ReadDir(ctx context.Context, p, include string) ([]*fstypes.Stat, error) {
	tree, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	return readDir(tree, p, include)
}

// StatFile implements frontend.Ref.
func (r *ref) StatFile(ctx context.Context, p string) (*fstypes.Stat, error) {
	tree, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	return statFile(tree, p)
}
