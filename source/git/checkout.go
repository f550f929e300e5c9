package git

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
	"golang.org/x/sys/unix"
)

// prepare makes dir a bare repository, and removes what a git that was killed left.
func (u *runner) prepare(ctx context.Context, dir, format string) error {
	if _, err := os.Stat(filepath.Join(dir, "ready")); errors.Is(err, fs.ErrNotExist) {
		list, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range list {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
		if _, err := u.git(ctx, "", nil, "init", "--quiet", "--bare", "--object-format="+format, "--", dir); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, "ready"), nil, 0o600)
	} else if err != nil {
		return err
	}
	for _, name := range []string{"shallow.lock", "config.lock", "HEAD.lock", "packed-refs.lock", "index.lock", "FETCH_HEAD.lock"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// has reports whether the repository has a commit with its tree.
func (u *runner) has(ctx context.Context, dir, commit string) bool {
	_, err := u.git(ctx, dir, nil, "rev-parse", "--quiet", "--verify", "--end-of-options", commit+"^{tree}")
	return err == nil
}

// fetchRef fetches a ref, full name or commit id, as shallow as possible.
func (u *runner) fetchRef(ctx context.Context, dir, ref string) error {
	args := []string{"fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--force"}
	// A flat name: refs of other times may be directories of this one.
	name := sha256.Sum256([]byte(ref))
	spec := []string{"--", u.remote.String(), "+" + ref + ":refs/dbuild/one/" + hex.EncodeToString(name[:])}
	_, err := u.git(ctx, dir, nil, append(append(args, "--depth=1"), spec...)...)
	if says(err, "shallow", "depth") {
		_, err = u.git(ctx, dir, nil, append(args, spec...)...)
	}
	return err
}

// fetchAll fetches everything, for what can be had no other way.
func (u *runner) fetchAll(ctx context.Context, dir string) error {
	args := []string{"fetch", "--quiet", "--no-write-fetch-head", "--force", "--no-tags", "--prune"}
	if _, err := os.Stat(filepath.Join(dir, "shallow")); err == nil {
		args = append(args, "--unshallow")
	}
	_, err := u.git(ctx, dir, nil, append(args, "--", u.remote.String(), "+refs/*:refs/dbuild/all/*")...)
	return err
}

// get makes sure the repository has the commit of a pin.
func (u *runner) get(ctx context.Context, dir string, p *Pin) error {
	if u.has(ctx, dir, p.Commit) {
		return nil
	}
	if p.req.Bundle != "" {
		return fmt.Errorf("the bundle %s has no commit %s", p.req.Bundle, p.Commit)
	}
	if p.Ref != "" && !p.req.FetchByCommit {
		if err := u.fetchRef(ctx, dir, p.Ref); err != nil {
			return err
		}
		if u.has(ctx, dir, p.Commit) {
			return nil
		}
		// The ref has moved since.
	}
	err := u.fetchRef(ctx, dir, p.Commit)
	if err == nil && u.has(ctx, dir, p.Commit) {
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	// Some servers give only what has a name.
	if err := u.fetchAll(ctx, dir); err != nil {
		return err
	}
	if u.has(ctx, dir, p.Commit) {
		return nil
	}
	return u.missing(ctx, p)
}

// missing explains that a commit does not exist: there may be a branch of that name.
func (u *runner) missing(ctx context.Context, p *Pin) error {
	list, err := u.lsRemote(ctx)
	if err != nil {
		return err
	}
	for kind, prefix := range map[string]string{"branch": "refs/heads/", "tag": "refs/tags/"} {
		if _, ok := list.ids[prefix+p.Commit]; ok {
			return fmt.Errorf("%q looks like a commit id; remote also has %s %s%s – use #%s%s", p.Commit, kind, prefix, p.Commit, prefix, p.Commit)
		}
	}
	return fmt.Errorf("the repository has no commit %s", p.Commit)
}

// Fetch returns the files of the commit that was pinned. The caller releases it.
func (s *Source) Fetch(ctx context.Context, g session.Group, p *Pin, log *progress.Log) (*snapshot.Ref, error) {
	u, err := s.runner(ctx, g, p.req)
	if err != nil {
		return nil, err
	}
	defer u.close()
	ref, err := s.fetch(ctx, g, u, p, log)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", u.remote, err)
	}
	return ref, nil
}

func (s *Source) fetch(ctx context.Context, g session.Group, u *runner, p *Pin, log *progress.Log) (*snapshot.Ref, error) {
	repo, err := s.repository(ctx, u, len(p.Commit), log)
	if err != nil {
		return nil, err
	}
	defer repo.Close()
	track := log.Track("fetching " + u.remote.String())
	err = s.unbundle(ctx, g, u, repo.Path, p)
	if err == nil {
		err = u.get(ctx, repo.Path, p)
	}
	track.Done()
	if err != nil {
		return nil, err
	}
	draft, err := s.cfg.Store.NewDraft(ctx, nil, snapshot.Desc{
		Type: snapshot.TypeGitCheckout, Description: strings.TrimSuffix("git snapshot for "+u.remote.String()+"#"+p.req.Ref, "#"),
	})
	if err != nil {
		return nil, err
	}
	defer draft.Discard()
	_, err = u.git(ctx, repo.Path, nil, "cat-file", "-e", p.Commit+":.gitmodules")
	modules := err == nil && !p.req.SkipSubmodules
	switch {
	case p.req.CheckoutBundle:
		err = u.bundle(ctx, repo.Path, draft.Upper(), p)
	case p.req.KeepGitDir || modules:
		err = u.clone(ctx, repo.Path, draft.Upper(), p, modules)
	default:
		err = u.export(ctx, repo.Path, draft.Upper(), p)
	}
	if err != nil {
		return nil, err
	}
	if p.req.CommitTime {
		out, err := u.git(ctx, repo.Path, nil, "show", "--no-patch", "--format=%ct", "--end-of-options", p.Commit)
		if err != nil {
			return nil, err
		}
		sec, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("commit %s has no time", p.Commit)
		}
		if err := setTimes(draft.Upper(), time.Unix(sec, 0)); err != nil {
			return nil, err
		}
	}
	return draft.Commit(ctx)
}

// export writes the files of a commit, or of a directory in it, to dir. Git finds the
// directory in its own objects, so no symlink can lead it elsewhere.
func (u *runner) export(ctx context.Context, repo, dir string, p *Pin) error {
	tree := p.Commit + ":" + p.req.Subdir
	out, err := u.git(ctx, repo, nil, "cat-file", "-t", tree)
	if err != nil || strings.TrimSpace(out) != "tree" {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return fmt.Errorf("commit %.12s has no directory %q", p.Commit, p.req.Subdir)
	}
	index := filepath.Join(repo, "index")
	if err := os.Remove(index); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	defer os.Remove(index)
	_, err = u.git(ctx, repo, []string{"GIT_WORK_TREE=" + dir, "GIT_INDEX_FILE=" + index}, "read-tree", "--reset", "-u", tree)
	return err
}

// clone makes dir a repository of its own, with the commit checked out.
func (u *runner) clone(ctx context.Context, repo, dir string, p *Pin, modules bool) error {
	work := dir
	if p.req.Subdir != "" {
		work = filepath.Join(dir, ".checkout")
	}
	format := "sha1"
	if len(p.Commit) == 64 {
		format = "sha256"
	}
	dotgit := filepath.Join(work, ".git")
	tree := []string{"GIT_WORK_TREE=" + work}
	local := []string{"GIT_ALLOW_PROTOCOL=file"}
	for _, c := range []struct {
		dir  string
		env  []string
		args []string
	}{
		{"", nil, []string{"init", "--quiet", "--object-format=" + format, "--", work}},
		{dotgit, local, []string{"fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "--", "file://" + repo, p.Commit}},
		{dotgit, nil, []string{"remote", "add", "--", "origin", u.remote.String()}},
		{dotgit, tree, []string{"checkout", "--quiet", "--force", "--detach", p.Commit}},
	} {
		if _, err := u.git(ctx, c.dir, c.env, c.args...); err != nil {
			return err
		}
	}
	if ref := u.name(ctx, repo, p); ref != "" && p.req.KeepGitDir {
		if _, err := u.git(ctx, dotgit, nil, "update-ref", ref, p.Commit); err != nil {
			return err
		}
	}
	if modules {
		// Submodules name their own remotes, which must not be files of this machine.
		env := append(tree, "GIT_ALLOW_PROTOCOL=https:http:git:ssh")
		if u.remote.scheme == "file" {
			env = tree
		}
		args := []string{"submodule", "--quiet", "update", "--init", "--recursive"}
		_, err := u.gitIn(ctx, work, env, append(args, "--depth=1")...)
		if says(err, "shallow", "depth") {
			_, err = u.gitIn(ctx, work, env, args...)
		}
		if err != nil {
			return err
		}
	}
	return tidy(dir, work, p)
}

// gitIn is git with a current directory, for commands that are scripts.
func (u *runner) gitIn(ctx context.Context, work string, env []string, args ...string) (string, error) {
	return u.git(ctx, filepath.Join(work, ".git"), env, append([]string{"-C", work}, args...)...)
}

// tidy leaves in dir what was asked for of the checkout in work.
func tidy(dir, work string, p *Pin) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if !p.req.KeepGitDir {
		// Submodules have a file of that name.
		err := filepath.WalkDir(work, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != ".git" || name == dir {
				return err
			}
			if err := os.RemoveAll(name); err != nil {
				return err
			}
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if work == dir {
		return nil
	}
	sub := filepath.Join(filepath.Base(work), p.req.Subdir)
	if err := inside(root, sub); err != nil {
		return fmt.Errorf("commit %.12s has no directory %q", p.Commit, p.req.Subdir)
	}
	aside := "." + rand.Text() // a name that is not in the directory
	if err := root.Rename(sub, aside); err != nil {
		return err
	}
	if p.req.KeepGitDir {
		if err := root.Rename(filepath.Join(filepath.Base(work), ".git"), filepath.Join(aside, ".git")); err != nil {
			return err
		}
	}
	if err := root.RemoveAll(filepath.Base(work)); err != nil {
		return err
	}
	f, err := root.Open(aside)
	if err != nil {
		return err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := root.Rename(filepath.Join(aside, n), n); err != nil {
			return err
		}
	}
	return root.Remove(aside)
}

// inside checks that path is a directory and no part of it a link.
func inside(root *os.Root, path string) error {
	at := ""
	for part := range strings.SplitSeq(path, "/") {
		at = filepath.Join(at, part)
		fi, err := root.Lstat(at)
		if err != nil {
			return err
		}
		if !fi.IsDir() {
			return fs.ErrInvalid
		}
	}
	return nil
}

// setTimes gives everything in dir one time.
func setTimes(dir string, t time.Time) error {
	ts := []unix.Timespec{unix.NsecToTimespec(t.UnixNano()), unix.NsecToTimespec(t.UnixNano())}
	return filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, name, ts, unix.AT_SYMLINK_NOFOLLOW)
	})
}
