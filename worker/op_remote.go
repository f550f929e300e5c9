package worker

import (
	"context"

	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/source/git"
	"github.com/dbuild/dbuild/source/http"
)

// httpOp pins a URL to the digest of what it serves.
func (w *Worker) httpOp(url string, attrs map[string]string) (solver.Op, error) {
	req, err := http.Parse(url, attrs)
	if err != nil {
		return nil, err
	}
	return &sourceOp{pin: func(ctx context.Context, d solver.Demand) (*pinned, error) {
		p, err := w.findFile(ctx, asker(d), req)
		if err != nil {
			return nil, err
		}
		id := p.ID()
		return &pinned{id: hash("http", id[:]), done: p.Release, used: httpUsed(url, p), fetch: func(ctx context.Context, d solver.Demand) (solver.Ref, error) {
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
		return nil, err
	}
	return &sourceOp{pin: func(ctx context.Context, d solver.Demand) (*pinned, error) {
		p, err := w.findCommit(ctx, asker(d), req)
		if err != nil {
			return nil, err
		}
		id := p.ID()
		return &pinned{id: hash("git", id[:]), used: gitUsed(req, p), fetch: func(ctx context.Context, d solver.Demand) (solver.Ref, error) {
			s, err := w.Git.Fetch(ctx, group{d}, p, d.Log())
			if err != nil {
				return nil, err
			}
			return NewRef(s), nil
		}}, nil
	}}, nil
}
