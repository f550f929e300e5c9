package buildkit

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"runtime"
	"strings"

	"github.com/dbuild/dbuild/internal/treehash"
	digest "github.com/opencontainers/go-digest"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"
)

// A Tree is what Sum reads.
type Tree struct {
	treehash.FS
	// Synced says that the tree came from a directory of the client, whose root has no
	// properties of its own.
	Synced bool
}

// Sum digests parts of a tree as BuildKit does. A tree that is nil has nothing at all, not
// even a root. What is not there is an error that satisfies fs.ErrNotExist.
func Sum(ctx context.Context, t Tree, parts []Selector) (digest.Digest, error) {
	var sums []string
	for _, p := range parts {
		s, err := t.part(ctx, p)
		if err != nil {
			return "", err
		}
		sums = append(sums, s.String())
	}
	return digest.FromString(strings.Join(sums, "\x00")), nil
}

// nothing is the digest of no bytes.
var nothing = digest.FromBytes(nil)

func (t Tree) part(ctx context.Context, s Selector) (digest.Digest, error) {
	at := strings.TrimPrefix(path.Join("/", s.Path), "/")
	if t.FS == nil {
		if at == "" {
			return nothing, nil
		}
		return "", &fs.PathError{Op: "digest", Path: "/" + at, Err: fs.ErrNotExist}
	}
	w := &walk{tree: t}
	var g *errgroup.Group
	g, w.ctx = errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	w.files = g
	var finish func() digest.Digest
	var err error
	if s.plain() {
		finish, err = w.path(at, s.FollowLinks)
	} else {
		finish, err = w.chosen(at, s)
	}
	if waitErr := g.Wait(); err == nil {
		err = waitErr
	}
	if err != nil {
		return "", err
	}
	return finish(), nil
}

// A walk lists what is digested while the files are read beside it. What it finds are
// functions that return digests once all files have been read.
type walk struct {
	tree  Tree
	ctx   context.Context
	files *errgroup.Group
}

// path digests one path with all that is beneath it.
func (w *walk) path(at string, follow bool) (func() digest.Digest, error) {
	at, err := treehash.Resolve(w.tree, at, follow)
	if err != nil {
		return nil, err
	}
	st, err := w.tree.Lstat(at)
	if err != nil {
		return nil, err
	}
	return w.whole(at, st)
}

// whole digests a path whose parents are no links.
func (w *walk) whole(at string, st *fstypes.Stat) (func() digest.Digest, error) {
	if !fs.FileMode(st.Mode).IsDir() {
		return w.entry(at, st), nil
	}
	if w.ctx.Err() != nil {
		return nil, context.Cause(w.ctx)
	}
	head := w.entry(at, st)
	names, err := w.tree.ReadDir(at)
	if err != nil {
		return nil, err
	}
	sums := make([]func() digest.Digest, len(names))
	for i, n := range names {
		sub := path.Join(at, n)
		st, err := w.tree.Lstat(sub)
		if err != nil {
			return nil, err
		}
		if sums[i], err = w.whole(sub, st); err != nil {
			return nil, err
		}
	}
	return func() digest.Digest {
		h := sha256.New()
		put(h, "\x00", head().String())
		for i, n := range names {
			put(h, "\x00", n, sums[i]().String())
		}
		return digest.NewDigest(digest.SHA256, h)
	}, nil
}

// entry digests a file, a link or the properties of a directory, without its name.
func (w *walk) entry(at string, st *fstypes.Stat) func() digest.Digest {
	if at == "" && w.tree.Synced {
		return func() digest.Digest { return nothing }
	}
	h := sha256.New()
	header(h, st)
	if fs.FileMode(st.Mode).IsRegular() && st.Size > 0 {
		w.files.Go(func() error { return w.read(h, at) })
	}
	return func() digest.Digest { return digest.NewDigest(digest.SHA256, h) }
}

func (w *walk) read(h hash.Hash, at string) error {
	if w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	f, err := w.tree.Open(at)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(h, f); err != nil {
		return fmt.Errorf("read /%s: %w", at, err)
	}
	return nil
}

// put writes strings one after the other.
func put(h hash.Hash, parts ...string) {
	for _, p := range parts {
		io.WriteString(h, p) //nolint:errcheck // a hash takes everything
	}
}
