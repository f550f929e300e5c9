package treehash

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"
)

// Sum digests what part names of the tree. Where part is one path its own name does not
// count, only what is there; where it has wildcards, the names that matched do.
func Sum(ctx context.Context, tree FS, part Part) ([32]byte, error) {
	names, err := Match(ctx, tree, part)
	if err != nil {
		return [32]byte{}, err
	}
	s, err := newSummer(ctx, tree, part)
	if err != nil {
		return [32]byte{}, err
	}
	for _, n := range names {
		root := n
		if part.FollowLinks {
			if root, err = Resolve(tree, n, true); err != nil {
				return [32]byte{}, err
			}
		}
		label := ""
		if part.Wildcard {
			label = n
		}
		if err := s.root(label, root); err != nil {
			return [32]byte{}, err
		}
	}
	return s.finish()
}

// summer lists the entries of a part in order, while file digests are computed beside.
type summer struct {
	ctx              context.Context
	tree             FS
	known            Digester // nil if the tree knows no digests
	include, exclude *patternmatcher.PatternMatcher
	entries          []*entry
	files            *errgroup.Group
}

// An entry is one line of what is hashed. label starts a new root.
type entry struct {
	label string
	rel   string
	st    *fstypes.Stat
	sum   [32]byte
}

func newSummer(ctx context.Context, tree FS, part Part) (*summer, error) {
	s := &summer{tree: tree}
	s.files, s.ctx = errgroup.WithContext(ctx)
	s.files.SetLimit(runtime.GOMAXPROCS(0))
	s.known, _ = tree.(Digester)
	var err error
	if len(part.Include) > 0 {
		if s.include, err = patternmatcher.New(part.Include); err != nil {
			return nil, fmt.Errorf("include patterns: %w", err)
		}
	}
	if len(part.Exclude) > 0 {
		if s.exclude, err = patternmatcher.New(part.Exclude); err != nil {
			return nil, fmt.Errorf("exclude patterns: %w", err)
		}
	}
	return s, nil
}

func (s *summer) root(label, at string) error {
	st, err := s.tree.Lstat(at)
	if err != nil {
		return err
	}
	s.entries = append(s.entries, &entry{label: label, st: st})
	if !fs.FileMode(st.Mode).IsDir() {
		return s.file(at, s.entries[len(s.entries)-1])
	}
	_, err = s.dir(at, "", patternmatcher.MatchInfo{}, patternmatcher.MatchInfo{})
	return err
}

// dir lists the content of a directory and reports whether any of it is included.
func (s *summer) dir(at, rel string, inc, exc patternmatcher.MatchInfo) (bool, error) {
	if s.ctx.Err() != nil {
		return false, context.Cause(s.ctx)
	}
	names, err := s.tree.ReadDir(at)
	if err != nil {
		return false, err
	}
	any := false
	for _, n := range names {
		ok, err := s.entry(path.Join(at, n), path.Join(rel, n), inc, exc)
		if err != nil {
			return false, err
		}
		any = any || ok
	}
	return any, nil
}

func (s *summer) entry(at, rel string, inc, exc patternmatcher.MatchInfo) (bool, error) {
	included, excluded := s.include == nil, false
	var err error
	if s.include != nil {
		if included, inc, err = s.include.MatchesUsingParentResults(rel, inc); err != nil {
			return false, err
		}
	}
	if s.exclude != nil {
		if excluded, exc, err = s.exclude.MatchesUsingParentResults(rel, exc); err != nil {
			return false, err
		}
	}
	st, err := s.tree.Lstat(at)
	if err != nil {
		return false, err
	}
	isDir := fs.FileMode(st.Mode).IsDir()
	if excluded && (!isDir || !s.exclude.Exclusions()) {
		return false, nil
	}
	keep := included && !excluded
	if !isDir && !keep {
		return false, nil
	}
	e := &entry{rel: rel, st: st}
	mark := len(s.entries)
	s.entries = append(s.entries, e)
	if !isDir {
		return true, s.file(at, e)
	}
	any, err := s.dir(at, rel, inc, exc)
	if err != nil {
		return false, err
	}
	if !keep && !any {
		s.entries = s.entries[:mark]
		return false, nil
	}
	return true, nil
}

// file digests a regular file, from memory if the tree can.
func (s *summer) file(at string, e *entry) error {
	if !fs.FileMode(e.st.Mode).IsRegular() {
		return nil
	}
	if s.known != nil {
		if sum, ok := s.known.FileDigest(at); ok {
			e.sum = sum
			return nil
		}
	}
	s.files.Go(func() error {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		f, err := s.tree.Open(at)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			return fmt.Errorf("read %s: %w", at, err)
		}
		h.Sum(e.sum[:0])
		return nil
	})
	return nil
}

func (s *summer) finish() ([32]byte, error) {
	if err := s.files.Wait(); err != nil {
		return [32]byte{}, err
	}
	w := newWriter("sum")
	for _, e := range s.entries {
		if e.rel == "" {
			w.str("root")
			w.str(e.label)
		}
		w.str(e.rel)
		w.header(e.st)
		w.h.Write(e.sum[:])
	}
	return w.sum(), nil
}

// kept are the mode bits that count.
const kept = fs.ModeType | fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

func (w *writer) header(st *fstypes.Stat) {
	w.num(uint64(fs.FileMode(st.Mode) & kept))
	w.num(uint64(st.Uid))
	w.num(uint64(st.Gid))
	if fs.FileMode(st.Mode)&fs.ModeSymlink != 0 {
		w.str(st.Linkname)
	}
	if fs.FileMode(st.Mode)&fs.ModeDevice != 0 {
		w.num(uint64(st.Devmajor))
		w.num(uint64(st.Devminor))
	}
	if len(st.Xattrs) == 0 {
		w.num(0)
		return
	}
	var keys []string
	for k := range st.Xattrs {
		if k == "security.capability" || strings.HasPrefix(k, "user.") {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	w.num(uint64(len(keys)))
	for _, k := range keys {
		w.str(k)
		w.str(string(st.Xattrs[k]))
	}
}
