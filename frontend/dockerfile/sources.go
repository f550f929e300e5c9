package dockerfile

import (
	"path"
	"slices"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbuild/dbuild/llb"
)

// gitSource makes a git source. The keys of an ssh host are for whoever connects to find
// out.
func (o *options) gitSource(g *gitRef, m llb.Meta) output {
	return ready(llb.Git(g.remote, llb.GitOptions{
		Ref:            g.ref,
		SubDir:         g.subdir,
		KeepGitDir:     g.keepDir != nil && *g.keepDir,
		Checksum:       g.checksum,
		SkipSubmodules: g.submodules != nil && !*g.submodules,
		MTime:          g.mtime,
		FetchByCommit:  g.byCommit,
		Advice:         o.gitAdvice,
	}, m))
}

func httpSource(url, filename, checksum string, m llb.Meta) output {
	return ready(llb.HTTP(url, llb.HTTPOptions{Filename: filename, Checksum: digest.Digest(checksum)}, m))
}

// A localDir is a directory of the client.
type localDir struct {
	name    string
	session string
	hint    string // what names it across builds, for incremental transfers
	exclude []string
}

// source is the directory's files, as far as they are in the paths that follow returns
// when it is asked, after lowering. None means all.
func (l localDir) source(follow func() []string, name string) output {
	return later(func() llb.Output {
		return llb.Local(l.name, llb.LocalOptions{
			SessionID: l.session, SharedKeyHint: l.hint, ExcludePatterns: l.exclude, FollowPaths: follow(),
		}, llb.Meta{Name: name})
	})
}

// files is a few small files of the directory, sent whatever was sent before.
func (l localDir) files(names []string, name string) output {
	return ready(llb.Local(l.name, llb.LocalOptions{
		SessionID: l.session, SharedKeyHint: l.hint, FollowPaths: names, Differ: pb.AttrLocalDifferNone,
	}, llb.Meta{Name: name}))
}

// A pathSet says which paths of a filesystem are read.
type pathSet map[string]bool

func (s pathSet) add(p string) { s[path.Join("/", p)] = true }

// follow lists the paths in the form of a local source; nil means all of it.
func (s pathSet) follow() []string {
	if s["/"] {
		return nil
	}
	out := make([]string, 0, len(s))
	for p := range s {
		out = append(out, path.Join(".", p))
	}
	slices.Sort(out)
	return out
}

// copyAll copies one path of an output to the root of an empty filesystem.
func copyAll(from output, c llb.Copy) output {
	c.Dest, c.Mode = "/", llb.KeepMode
	return fileOp(output{}, llb.Meta{}, action{from: from, copy: c})
}
