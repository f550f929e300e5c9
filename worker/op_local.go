package worker

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dbuild/dbuild/attest/provenance"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/source/local"
	"github.com/moby/buildkit/solver/pb"
)

// localOp pins a directory of the client to what is in it now.
func (w *Worker) localOp(name string, attrs map[string]string) (solver.Op, error) {
	req := local.Request{Name: name, SessionID: attrs[pb.AttrLocalSessionID], SharedKeyHint: attrs[pb.AttrSharedKeyHint]}
	switch v := attrs[pb.AttrLocalDiffer]; v {
	case "", pb.AttrLocalDifferMetadata, pb.AttrLocalDifferNone:
		req.Differ = local.Differ(v)
	default:
		return nil, invalid("%s of local://%s is %.40q: want none or metadata", pb.AttrLocalDiffer, name, v)
	}
	var except []string
	for attr, list := range map[string]*[]string{
		pb.AttrIncludePatterns: &req.Include, pb.AttrExcludePatterns: &req.Exclude, pb.AttrFollowPaths: &req.FollowPaths,
		pb.AttrMetadataTransferExclude: &except,
	} {
		if v := attrs[attr]; v != "" {
			if err := json.Unmarshal([]byte(v), list); err != nil {
				return nil, invalid("%s of local://%s: want a JSON list of strings", attr, name)
			}
		}
	}
	switch v := attrs[pb.AttrMetadataTransfer]; v {
	case "true":
		return w.metadataOp(req, except), nil
	case "", "false":
	default:
		return nil, invalid("%s of local://%s is %.40q: want true or false", pb.AttrMetadataTransfer, name, v)
	}
	whole := req
	whole.FollowPaths, whole.Include = nil, nil
	all := func(ctx context.Context, d solver.Demand) ([]string, error) {
		return w.Locals.List(ctx, group{d}, whole)
	}
	return &sourceOp{pin: func(ctx context.Context, d solver.Demand) (*pinned, error) {
		tree, err := w.Locals.Sync(ctx, group{d}, req, d.Log())
		if err != nil {
			return nil, err
		}
		return &pinned{
			id:   hash("local", []byte(tree.Digest())),
			done: tree.Release,
			used: provenance.Used{Locals: []string{name}},
			tree: tree,
			fetch: func(context.Context, solver.Demand) (solver.Ref, error) {
				return &TreeRef{tree.Retain(), req.Exclude, all}, nil
			},
		}, nil
	}}, nil
}

// metadataOp pins the list of a directory, with the content of some of its files.
func (w *Worker) metadataOp(req local.Request, except []string) solver.Op {
	return &sourceOp{pin: func(ctx context.Context, d solver.Demand) (*pinned, error) {
		list, files, ok, err := w.Locals.Metadata(ctx, group{d}, req, except)
		if err != nil {
			return nil, err
		}
		id := [][]byte{list}
		var tree *local.Tree
		if ok {
			if tree, err = w.Locals.Sync(ctx, group{d}, files, d.Log()); err != nil {
				return nil, err
			}
			id = append(id, []byte(tree.Digest()))
		}
		used := provenance.Used{Locals: []string{req.Name}}
		p := &pinned{id: hash("local metadata", id...), used: used, fetch: func(ctx context.Context, _ solver.Demand) (solver.Ref, error) {
			ref, err := w.layerWith(ctx, tree, local.MetadataFile, list)
			if err != nil {
				return nil, fmt.Errorf("local directory %q: %w", req.Name, err)
			}
			return NewRef(ref), nil
		}}
		if tree != nil {
			p.done = tree.Release
		}
		return p, nil
	}}
}

// layerWith makes a layer of a synced directory, which may be nil, and a file.
func (w *Worker) layerWith(ctx context.Context, tree *local.Tree, name string, content []byte) (*snapshot.Ref, error) {
	draft, err := w.Store.NewDraft(ctx, nil, snapshot.Desc{Description: "list of a local directory", Type: snapshot.TypeLocal})
	if err != nil {
		return nil, err
	}
	defer draft.Discard()
	if tree != nil {
		if err := copyTree(ctx, draft, &TreeRef{tree: tree}); err != nil {
			return nil, err
		}
	}
	file := filepath.Join(draft.Upper(), name)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		return nil, err
	}
	if err := os.Chtimes(file, time.Unix(0, 0), time.Unix(0, 0)); err != nil {
		return nil, err
	}
	return draft.Commit(ctx)
}

// layerOf copies a synced directory into a layer, for those who need layers.
func (w *Worker) layerOf(ctx context.Context, r *TreeRef) (*snapshot.Ref, error) {
	draft, err := w.Store.NewDraft(ctx, nil, snapshot.Desc{Description: "copy of a local directory", Type: snapshot.TypeLocal})
	if err != nil {
		return nil, err
	}
	if err := copyTree(ctx, draft, r); err != nil {
		draft.Discard()
		return nil, err
	}
	ref, err := draft.Commit(ctx)
	if err != nil {
		draft.Discard()
	}
	return ref, err
}
