package git

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
)

// Config is what a Source needs.
type Config struct {
	Store    *snapshot.Store  // keeps repositories and checkouts; required
	Sessions *session.Manager // reaches the clients; required
	Program  string           // "" is git
	// AllowFile permits file:// remotes, which are read with the daemon's rights.
	AllowFile bool
}

// A Source checks out commits.
type Source struct{ cfg Config }

// New returns a Source.
func New(cfg Config) *Source {
	if cfg.Program == "" {
		cfg.Program = "git"
	}
	return &Source{cfg: cfg}
}

// A Pin is a request with the commit it means.
type Pin struct {
	Commit string // full id
	Ref    string // full name of the ref that was found; "" if a commit was asked for

	req    Request
	remote *remote
}

// ID names the result: the commit, and what of it is taken.
func (p *Pin) ID() [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "git\n%s\n%q\n%t %t %t\n", p.Commit, p.req.Subdir, p.req.KeepGitDir, p.req.SkipSubmodules, p.req.CommitTime)
	if p.req.KeepGitDir { // both are in .git
		fmt.Fprintf(h, "%q %q\n", p.remote, p.req.Ref)
	}
	return [32]byte(h.Sum(nil))
}

// URI is the address without credentials, and the commit.
func (p *Pin) URI() string { return p.remote.String() + "#" + p.Commit }

// Pin asks the remote what the request means now. For a full commit id it asks nothing.
func (s *Source) Pin(ctx context.Context, g session.Group, req Request, log *progress.Log) (*Pin, error) {
	if err := req.check(); err != nil {
		return nil, err
	}
	u, err := s.runner(ctx, g, req)
	if err != nil {
		return nil, err
	}
	defer u.close()
	p := &Pin{req: req, remote: u.remote}
	if hexID.MatchString(req.Ref) {
		p.Commit = req.Ref
	} else {
		refs, err := u.lsRemote(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", u.remote, err)
		}
		var ok bool
		if p.Ref, p.Commit, ok = refs.find(req.Ref); !ok {
			if !shortID.MatchString(req.Ref) {
				return nil, fmt.Errorf("%s: the repository has no ref %q", u.remote, req.Ref)
			}
			if p.Commit, err = s.expand(ctx, u, req.Ref, log); err != nil {
				return nil, fmt.Errorf("%s: %w", u.remote, err)
			}
		}
	}
	if !strings.HasPrefix(p.Commit, req.Checksum) {
		return nil, fmt.Errorf("%s#%s: the commit is %s, not %s", u.remote, req.Ref, p.Commit, req.Checksum)
	}
	return p, nil
}

// refs are the refs of a remote and the commits they mean; tags are resolved.
type refs map[string]string

// lsRemote lists the refs of the remote.
func (u *runner) lsRemote(ctx context.Context) (refs, error) {
	out, err := u.git(ctx, "", nil, "ls-remote", "--", u.remote.String())
	if err != nil {
		return nil, err
	}
	r := refs{}
	for line := range strings.Lines(out) {
		id, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if !ok || !hexID.MatchString(id) {
			continue
		}
		// What a tag object points to comes after the tag itself.
		r[strings.TrimSuffix(name, "^{}")] = id
	}
	return r, nil
}

// find looks a name up: HEAD if it is empty; a full name; a branch before a tag before
// any other ref.
func (r refs) find(name string) (ref, id string, ok bool) {
	list := []string{"refs/heads/" + name, "refs/tags/" + name, "refs/" + name}
	switch {
	case name == "" || name == "HEAD":
		list = []string{"HEAD"}
	case strings.HasPrefix(name, "refs/"):
		list = []string{name}
	}
	for _, ref := range list {
		if id, ok := r[ref]; ok {
			return ref, id, true
		}
	}
	return "", "", false
}

// repository opens the bare repository of a remote, locked, and makes it if needed.
func (s *Source) repository(ctx context.Context, u *runner, idLen int, log *progress.Log) (*snapshot.Dir, error) {
	format := "sha1"
	if idLen == 64 {
		format = "sha256"
	}
	key := sha256.Sum256([]byte(format + " " + u.remote.String()))
	dir, err := s.cfg.Store.OpenDir(ctx, "git "+hex.EncodeToString(key[:]),
		snapshot.Desc{Description: "git repository " + u.remote.String()}, snapshot.Locked, nil, snapshot.Access{Log: log})
	if err != nil {
		return nil, err
	}
	if err := u.prepare(ctx, dir.Path, format); err != nil {
		dir.Close()
		return nil, err
	}
	return dir, nil
}
