package worker

import (
	"context"
	"fmt"
	"io"

	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/attest/provenance"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/source/git"
	"github.com/dbuild/dbuild/source/http"
	"github.com/dbuild/dbuild/source/image"
	"github.com/moby/buildkit/solver/pb"
)

// httpOp pins a URL to the digest of what it serves.
func (w *Worker) httpOp(url string, attrs map[string]string) (solver.Op, error) {
	req, err := http.Parse(url, attrs)
	if err != nil {
		return nil, invalid("%v", err)
	}
	return &sourceOp{pin: func(ctx context.Context, d solver.Demand) (*pinned, error) {
		p, err := w.findFile(ctx, asker(d), req)
		if err != nil {
			return nil, err
		}
		id := p.ID()
		return &pinned{id: hash("http", id[:]), done: p.Release, used: httpUsed(url, p), foreign: foreignHTTP(attrs, req, p), fetch: func(ctx context.Context, d solver.Demand) (solver.Ref, error) {
			s, err := w.HTTP.Fetch(ctx, group{d}, p, d.Log())
			if err != nil {
				return nil, err
			}
			return NewRef(s), nil
		}}, nil
	}}, nil
}

// gitOp pins a ref of a repository to a commit.
func (w *Worker) gitOp(name string, attrs map[string]string) (solver.Op, error) {
	req, err := git.Parse(name, attrs)
	if err != nil {
		return nil, invalid("%v", err)
	}
	return &sourceOp{pin: func(ctx context.Context, d solver.Demand) (*pinned, error) {
		p, err := w.findCommit(ctx, asker(d), req)
		if err != nil {
			return nil, err
		}
		id := p.ID()
		return &pinned{id: hash("git", id[:]), used: gitUsed(req, p), foreign: foreignGit(req, p), fetch: func(ctx context.Context, d solver.Demand) (solver.Ref, error) {
			s, err := w.Git.Fetch(ctx, group{d}, p, d.Log())
			if err != nil {
				return nil, err
			}
			return NewRef(s), nil
		}}, nil
	}}, nil
}

// blobOp is a file known by its digest, in a registry or in a content store of the client.
func (w *Worker) blobOp(identifier string, attrs map[string]string) (solver.Op, error) {
	blob, err := image.ParseBlob(identifier, image.Layout{SessionID: attrs[pb.AttrOCILayoutSessionID], StoreID: attrs[pb.AttrOCILayoutStoreID]})
	if err != nil {
		return nil, err
	}
	file, err := http.ParseFile(attrs)
	if err != nil {
		return nil, invalid("blob %s: %v", blob.Ref, err)
	}
	id := hash("blob", []byte(blob.Digest), fmt.Appendf(nil, "%q %o %d %d", file.Filename, file.Mode, file.UID, file.GID))
	return &sourceOp{pin: func(context.Context, solver.Demand) (*pinned, error) {
		used := provenance.Used{Materials: []provenance.Material{blobUsed(blob, attest.Blob)}}
		return &pinned{id: id, used: used, fetch: func(ctx context.Context, d solver.Demand) (solver.Ref, error) {
			s, err := w.HTTP.Blob(ctx, http.Blob{
				File: file, Digest: blob.Digest, From: "blob " + blob.Ref,
				Open: func(ctx context.Context) (io.ReadCloser, int64, error) { return w.Images.OpenBlob(ctx, group{d}, blob) },
			}, d.Log())
			if err != nil {
				return nil, err
			}
			return NewRef(s), nil
		}}, nil
	}}, nil
}
