package git

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
	digest "github.com/opencontainers/go-digest"
)

// Config is what a Source needs.
type Config struct {
	Store    *snapshot.Store  // keeps repositories and checkouts; required
	Sessions *session.Manager // reaches the clients; required
	Program  string           // "" is git
	// AllowFile permits file:// remotes, which are read with the daemon's rights.
	AllowFile bool
	// Bundle opens a bundle that a request names; nil: there are none.
	Bundle func(context.Context, session.Group, Request) (Bundle, error)
}

// A Bundle is a stream of a bundle file.
type Bundle struct {
	io.ReadCloser
	Digest digest.Digest
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

// A Found is what a ref of a repository means.
type Found struct {
	Ref    string // full name; "" if a commit was asked for
	Object string // what it names: the commit, or a tag object that names it
	Commit string // full id
}

// A Pin is a request with the commit it means.
type Pin struct {
	Found

	req    Request
	remote *remote
}

// ID names the result: the commit, and what of it is taken.
func (p *Pin) ID() [32]byte {
	h := sha256.New()
	fmt.Fprintf(h, "git\n%s\n%q\n%t %t %t\n", p.Commit, p.req.Subdir, p.req.KeepGitDir, p.req.SkipSubmodules, p.req.CommitTime)
	if p.req.KeepGitDir || p.req.CheckoutBundle { // both are in .git, and in the bundle
		fmt.Fprintf(h, "%q %q %t\n", p.remote, p.req.Ref, p.req.CheckoutBundle)
	}
	return [32]byte(h.Sum(nil))
}

// URI is the address without credentials, and the commit.
func (p *Pin) URI() string { return p.remote.String() + "#" + p.Commit }

// Name is the ref that the request is about, with its repository, without credentials.
func (r *Request) Name() string {
	remote, err := parseRemote(r.Remote)
	if err != nil {
		return ""
	}
	if r.Bundle != "" {
		return r.Bundle + "#" + r.Checksum
	}
	return remote.String() + "#" + r.Ref
}

// Pin asks the remote what the request means now. For a full commit id it asks nothing.
func (s *Source) Pin(ctx context.Context, g session.Group, req Request, log *progress.Log) (*Pin, error) {
	f, err := s.Find(ctx, g, req, log)
	if err != nil {
		return nil, err
	}
	return s.PinTo(ctx, g, req, f, log)
}

// Find asks the remote what the ref of the request means now.
func (s *Source) Find(ctx context.Context, g session.Group, req Request, log *progress.Log) (Found, error) {
	if err := req.check(); err != nil {
		return Found{}, err
	}
	if req.Bundle != "" {
		return Found{Object: req.Checksum, Commit: req.Checksum}, nil
	}
	if hexID.MatchString(req.Ref) {
		return Found{Object: req.Ref, Commit: req.Ref}, nil
	}
	u, err := s.runner(ctx, g, req)
	if err != nil {
		return Found{}, err
	}
	defer u.close()
	list, err := u.lsRemote(ctx)
	if err != nil {
		return Found{}, fmt.Errorf("%s: %w", u.remote, err)
	}
	if f, ok := list.find(req.Ref); ok {
		return f, nil
	}
	hint := ""
	if shortID.MatchString(req.Ref) {
		hint = " (a commit is meant by its full id only)"
	}
	return Found{}, fmt.Errorf("%s: repository does not contain ref %q%s", u.remote, req.Ref, hint)
}

// PinTo pins the request to what was found before, if that is what it may be.
func (s *Source) PinTo(ctx context.Context, g session.Group, req Request, f Found, log *progress.Log) (*Pin, error) {
	if err := req.check(); err != nil {
		return nil, err
	}
	remote, err := parseRemote(req.Remote)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(f.Commit, req.Checksum) && !strings.HasPrefix(f.Object, req.Checksum) {
		return nil, fmt.Errorf("%s#%s: expected checksum to match %s, got %s", remote, req.Ref, req.Checksum, f.Commit)
	}
	p := &Pin{Found: f, req: req, remote: remote}
	if req.Keys != "" {
		if err := s.verify(ctx, g, p, log); err != nil {
			return nil, fmt.Errorf("%s#%s: %w", remote, req.Ref, err)
		}
	}
	return p, nil
}

// refs are the refs of a remote. What tags point to stands under "NAME^{}".
type refs struct {
	ids  map[string]string
	head string // the branch that HEAD is; "" if that is not known
}

// lsRemote lists the refs of the remote.
func (u *runner) lsRemote(ctx context.Context) (*refs, error) {
	out, err := u.git(ctx, "", nil, "ls-remote", "--symref", "--", u.remote.String())
	if err != nil {
		return nil, err
	}
	r := &refs{ids: map[string]string{}}
	for line := range strings.Lines(out) {
		id, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		target, symbolic := strings.CutPrefix(id, "ref: ")
		switch {
		case !ok:
		case symbolic && name == "HEAD":
			r.head = target
		case hexID.MatchString(id):
			r.ids[name] = id
		}
	}
	return r, nil
}

// find looks a name up: HEAD if it is empty; a full name; a branch before a tag before
// any other ref.
func (r *refs) find(name string) (Found, bool) {
	list := []string{"refs/heads/" + name, "refs/tags/" + name, "refs/" + name}
	switch {
	case name == "" || name == "HEAD":
		list = []string{"HEAD"}
	case strings.HasPrefix(name, "refs/"):
		list = []string{name}
	}
	for _, ref := range list {
		id, ok := r.ids[ref]
		if !ok {
			continue
		}
		f := Found{Ref: ref, Object: id, Commit: id}
		if commit, ok := r.ids[ref+"^{}"]; ok {
			f.Commit = commit
		}
		if ref == "HEAD" && r.ids[r.head] == id {
			f.Ref = r.head
		}
		return f, true
	}
	return Found{}, false
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
