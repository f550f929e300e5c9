package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/contextfs"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/contexthash"
	"github.com/dbuild/dbuild/internal/ignore"
	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// dockerfileFrontend is the frontend that builds ask for.
const dockerfileFrontend = "dockerfile.v0"

// Facts are what a build is made from, as far as the client's request says it. What they
// mean and how they are computed is in docs/context-hash.md.
type facts struct {
	context    digest.Digest
	named      map[string]digest.Digest // of contexts that are directories
	definition digest.Digest
	revision   string   // of a context in git
	other      []string // paths in contexts that do not count: neither files, directories nor links
}

// metadata returns the facts under the keys of --metadata-file.
func (f *facts) metadata() map[string]string {
	out := map[string]string{
		"dbuild.context.digest":    f.context.String(),
		"dbuild.definition.digest": f.definition.String(),
	}
	for name, d := range f.named {
		out["dbuild.context.named."+name] = d.String()
	}
	if f.revision != "" {
		out["dbuild.context.vcs.revision"] = f.revision
	}
	return out
}

// findFacts reads all contexts of a request that are directories of this machine, and asks
// the daemon about a main one that is not. Remote makes the daemon's answer known.
func findFacts(ctx context.Context, req *buildflags.Request, l *lent, remote func(context.Context) (*facts, digest.Digest, error)) (*facts, error) {
	f := &facts{}
	def := contexthash.Definition{
		Named: map[string]string{}, BuildArgs: map[string]string{}, Target: req.Attrs["target"], Frontend: dockerfileFrontend,
	}
	if dir, ok := l.locals[buildflags.LocalContext]; ok {
		ignored, err := mainIgnore(req, l)
		if err != nil {
			return nil, err
		}
		if f.context, f.other, err = directoryDigest(ctx, dir, ignored); err != nil {
			return nil, err
		}
		if def.Dockerfile, err = dockerfileDigest(req, l); err != nil {
			return nil, err
		}
	} else {
		var err error
		if f, def.Dockerfile, err = remote(ctx); err != nil {
			return nil, err
		}
	}
	f.named = map[string]digest.Digest{}
	for attr, value := range req.Attrs {
		if name, ok := strings.CutPrefix(attr, "build-arg:"); ok && countsAsArg(name) {
			def.BuildArgs[name] = value
		}
		name, ok := strings.CutPrefix(attr, "context:")
		if !ok {
			continue
		}
		def.Named[name] = value
		local, ok := strings.CutPrefix(value, "local:")
		if !ok {
			continue
		}
		ignored, err := namedIgnore(req, name, l.locals[local])
		if err != nil {
			return nil, err
		}
		d, other, err := directoryDigest(ctx, l.locals[local], ignored)
		if err != nil {
			return nil, err
		}
		f.named[name], def.Named[name] = d, d.String()
		f.other = append(f.other, other...)
	}
	def.Context = f.context
	if p := req.Attrs["platform"]; p != "" {
		def.Platforms = strings.Split(p, ",")
	}
	f.definition = def.Digest()
	return f, nil
}

// countsAsArg tells whether a build argument changes what is built. Proxies differ from
// machine to machine and are no part of any result.
func countsAsArg(name string) bool {
	switch strings.ToLower(name) {
	case "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy", "buildkit_context_ignore_remote":
		return false
	}
	return true
}

// mainIgnore reads the ignore file of a build context that is a directory.
func mainIgnore(req *buildflags.Request, l *lent) (*ignore.File, error) {
	name := req.IgnoreFile
	if name == "" {
		own := filepath.Join(l.locals[buildflags.LocalDockerfile], req.Attrs["filename"]+ignore.Name)
		if _, ok := l.locals[buildflags.LocalDockerfile]; ok && isFile(own) {
			name = own
		}
	}
	if name == "" {
		return contextfs.ReadIgnore(l.locals[buildflags.LocalContext])
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("ignore file: %w", err)
	}
	return ignore.Parse(name, text)
}

// namedIgnore reads the ignore file of another context, the directory dir.
func namedIgnore(req *buildflags.Request, name, dir string) (*ignore.File, error) {
	path := req.IgnoreFiles[name]
	if path == "" {
		return contextfs.ReadIgnore(dir)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("ignore file: %w", err)
	}
	return ignore.Parse(path, text)
}

func dockerfileDigest(req *buildflags.Request, l *lent) (digest.Digest, error) {
	dir, ok := l.locals[buildflags.LocalDockerfile]
	if !ok {
		return "", nil
	}
	text, err := os.ReadFile(filepath.Join(dir, req.Attrs["filename"]))
	if err != nil {
		return "", fmt.Errorf("the Dockerfile cannot be read: %w", err)
	}
	return digest.FromBytes(text), nil
}

// directoryDigest is the digest of what is sent of a directory. It reads every file.
func directoryDigest(ctx context.Context, dir string, ignored *ignore.File) (digest.Digest, []string, error) {
	f, err := contextfs.New(dir)
	if err != nil {
		return "", nil, err
	}
	var entries []contexthash.Entry
	var other []string
	err = f.Entries(ctx, contextfs.Patterns{Exclude: ignored.Patterns()}, func(e contextfs.Entry) error {
		kind, counts := contexthash.KindOf(e.Mode)
		if !counts {
			other = append(other, filepath.Join(dir, e.Path))
			return nil
		}
		h := contexthash.Entry{Path: e.Path, Kind: kind, Mode: e.Mode}
		if kind == contexthash.Link {
			h.Sum = sha256.Sum256([]byte(e.Link))
		}
		entries = append(entries, h)
		return nil
	})
	if err != nil {
		return "", nil, fmt.Errorf("context %s: %w", dir, err)
	}
	if err := sumFiles(ctx, f, entries); err != nil {
		return "", nil, fmt.Errorf("context %s: %w", dir, err)
	}
	return contexthash.Tree(entries), other, nil
}

// sumFiles reads the files among entries.
func sumFiles(ctx context.Context, f *contextfs.FS, entries []contexthash.Entry) error {
	eg, ctx := errgroup.WithContext(ctx)
	readers := min(4, runtime.GOMAXPROCS(0))
	for first := range readers {
		eg.Go(func() error {
			for i := first; i < len(entries); i += readers {
				if entries[i].Kind != contexthash.File {
					continue
				}
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := sumFile(f, &entries[i]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return eg.Wait()
}

func sumFile(f *contextfs.FS, e *contexthash.Entry) error {
	r, err := f.Open(e.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	if e.Sum, err = contexthash.Content(r); err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	return nil
}

// remoteFacts asks the daemon for the build context of opt, to read it here.
func remoteFacts(ctx context.Context, d *daemonConn, l *lent, opt client.SolveOpt) (*facts, digest.Digest, error) {
	if !d.ours() {
		return nil, "", errors.New("this daemon does not say what is in a context that it fetches itself")
	}
	attrs := maps.Clone(opt.FrontendAttrs)
	attrs["requestid"] = "frontend.dbuild.context"
	delete(attrs, "platform")
	if l.again != "" {
		attrs["context"] = l.again
	}
	for k := range attrs {
		if strings.HasPrefix(k, "attest:") {
			delete(attrs, k)
		}
	}
	in, out := io.Pipe()
	ask := client.SolveOpt{
		Ref: strings.ToLower(rand.Text()), FrontendAttrs: attrs, Session: opt.Session, LocalMounts: opt.LocalMounts,
		SourcePolicy: opt.SourcePolicy, SourcePolicyProvider: opt.SourcePolicyProvider, Internal: true, SharedKey: opt.SharedKey, AllowedEntitlements: opt.AllowedEntitlements,
		Exports: []client.ExportEntry{{Type: client.ExporterTar, Output: func(map[string]string) (io.WriteCloser, error) { return out, nil }}},
	}
	f := &facts{}
	var dockerfile digest.Digest
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error {
		_, err := d.Build(ctx, ask, "dbuild", func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
			res, err := g.Solve(ctx, gateway.SolveRequest{Frontend: opt.Frontend, FrontendOpt: attrs})
			if err != nil {
				return nil, err
			}
			f.revision = string(res.Metadata["dbuild.context.vcs.revision"])
			dockerfile = digest.Digest(res.Metadata["dbuild.dockerfile.digest"])
			return res, nil
		}, nil)
		out.CloseWithError(err)
		return err
	})
	eg.Go(func() error {
		entries, other, err := contexthash.Archive(in)
		if err == nil {
			_, err = io.Copy(io.Discard, in) // what follows the end of the archive
		}
		in.CloseWithError(err)
		f.context, f.other = contexthash.Tree(entries), other
		return err
	})
	if err := eg.Wait(); err != nil {
		return nil, "", err
	}
	return f, dockerfile, nil
}

func isFile(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.Mode()&fs.ModeDir == 0
}
