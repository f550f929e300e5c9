package git

import (
	"context"
	"fmt"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/session"
)

// Objects are the raw bytes of a commit, and of the tag object by which it was found; Tag
// is nil if there is none.
type Objects struct{ Commit, Tag []byte }

// Objects fetches the commit that was pinned and returns its objects.
func (s *Source) Objects(ctx context.Context, g session.Group, p *Pin, log *progress.Log) (*Objects, error) {
	u, err := s.runner(ctx, g, p.req)
	if err != nil {
		return nil, err
	}
	defer u.close()
	repo, err := s.repository(ctx, u, len(p.Commit), log)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", u.remote, err)
	}
	defer repo.Close()
	if err := s.unbundle(ctx, g, u, repo.Path, p); err != nil {
		return nil, err
	}
	if err := u.get(ctx, repo.Path, p); err != nil {
		return nil, fmt.Errorf("%s: %w", u.remote, err)
	}
	out, err := u.objects(ctx, repo.Path, p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", u.remote, err)
	}
	return out, nil
}

// objects reads the objects of a pin from a repository that has them.
func (u *runner) objects(ctx context.Context, repo string, p *Pin) (*Objects, error) {
	commit, err := u.git(ctx, repo, nil, "cat-file", "commit", p.Commit)
	if err != nil {
		return nil, err
	}
	out := &Objects{Commit: []byte(commit)}
	if p.Object == p.Commit {
		return out, nil
	}
	tag, err := u.git(ctx, repo, nil, "cat-file", "tag", p.Object)
	if err != nil && p.Ref != "" {
		// The commit was there, but not the tag.
		if err := u.fetchRef(ctx, repo, p.Ref); err != nil {
			return nil, err
		}
		tag, err = u.git(ctx, repo, nil, "cat-file", "tag", p.Object)
	}
	if err != nil {
		return nil, err
	}
	out.Tag = []byte(tag)
	return out, nil
}
