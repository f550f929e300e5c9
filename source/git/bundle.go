package git

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/dbuild/dbuild/session"
)

// unbundle takes the history of a request from its bundle, if it has one and the repository
// lacks the commit.
func (s *Source) unbundle(ctx context.Context, g session.Group, u *runner, repo string, p *Pin) error {
	if p.req.Bundle == "" || u.has(ctx, repo, p.Commit) && u.unbundled(ctx, repo, p) {
		return nil
	}
	if s.cfg.Bundle == nil {
		return errors.New("not implemented: repositories from bundles")
	}
	b, err := s.cfg.Bundle(ctx, g, p.req)
	if err != nil {
		return err
	}
	defer b.Close()
	f, err := os.CreateTemp(repo, "bundle-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	sum := b.Digest.Algorithm().Digester()
	if _, err := io.Copy(io.MultiWriter(f, sum.Hash()), b); err != nil {
		return err
	}
	if got := sum.Digest(); got != b.Digest {
		return fmt.Errorf("%s: digest mismatch %s: %s", p.req.Bundle, got, b.Digest)
	}
	if err := f.Close(); err != nil {
		return err
	}
	local := []string{"GIT_ALLOW_PROTOCOL=file"}
	_, err = u.git(ctx, repo, local, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--force", "--", f.Name(), "+refs/*:"+bundleRefs(p)+"*")
	return err
}

// bundleRefs is where the refs of a bundle are kept.
func bundleRefs(p *Pin) string {
	_, hex, _ := strings.Cut(p.req.Bundle, "@")
	return "refs/dbuild/bundle/" + strings.ReplaceAll(hex, ":", "-") + "/"
}

// unbundled reports whether a repository has the refs of the bundle.
func (u *runner) unbundled(ctx context.Context, repo string, p *Pin) bool {
	out, err := u.git(ctx, repo, nil, "for-each-ref", "--count=1", bundleRefs(p))
	return err == nil && strings.TrimSpace(out) != ""
}

// name is the branch or tag by which the commit was found, or "".
func (u *runner) name(ctx context.Context, repo string, p *Pin) string {
	if p.req.Bundle == "" {
		if strings.HasPrefix(p.Ref, "refs/heads/") || strings.HasPrefix(p.Ref, "refs/tags/") {
			return p.Ref
		}
		return ""
	}
	for _, kind := range []string{"heads/", "tags/"} {
		name := kind + strings.TrimPrefix(p.req.Ref, "refs/"+kind)
		out, err := u.git(ctx, repo, nil, "rev-parse", "--quiet", "--verify", "--end-of-options", bundleRefs(p)+name+"^{commit}")
		if err == nil && strings.TrimSpace(out) == p.Commit {
			return "refs/" + name
		}
	}
	return ""
}

// bundle writes a bundle of the commit and its history to dir. It is made of a repository
// that has nothing else, with one thread, so that the same commit gives the same bytes.
func (u *runner) bundle(ctx context.Context, repo, dir string, p *Pin) error {
	if _, err := os.Stat(filepath.Join(repo, "shallow")); err == nil {
		if err := u.fetchAll(ctx, repo); err != nil {
			return err
		}
	}
	tmp, err := os.MkdirTemp(repo, "bundle-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	format := "sha1"
	if len(p.Commit) == 64 {
		format = "sha256"
	}
	name := u.name(ctx, repo, p)
	if name == "" {
		name = "refs/heads/main"
	}
	object := p.Commit
	if strings.HasPrefix(name, "refs/tags/") {
		object = p.Object
	}
	for _, c := range []struct {
		dir  string
		env  []string
		args []string
	}{
		{"", nil, []string{"init", "--quiet", "--bare", "--object-format=" + format, "--", tmp}},
		{tmp, []string{"GIT_ALLOW_PROTOCOL=file"}, []string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", "file://" + repo, "+" + object + ":" + name}},
		{tmp, nil, []string{"-c", "pack.threads=1", "bundle", "create", "--quiet", filepath.Join(dir, "bundle"), name}},
	} {
		if _, err := u.git(ctx, c.dir, c.env, c.args...); err != nil {
			return err
		}
	}
	return os.Chmod(filepath.Join(dir, "bundle"), 0o644)
}
