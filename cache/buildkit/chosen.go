package buildkit

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/moby/patternmatcher"
	digest "github.com/opencontainers/go-digest"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// A choice digests what a pattern, or patterns within a directory, choose of a tree: files,
// links and properties of directories, each with its path.
type choice struct {
	*walk
	pattern          string // with a leading slash; "" is the root
	wildcard, follow bool
	include, exclude *patternmatcher.PatternMatcher
	found            []chosen
	parents          []*parent // of the path at hand, as far as they were chosen or may be
	top              string    // the last path that matched the pattern
}

type chosen struct {
	path string
	sum  func() digest.Digest
}

// A parent is a directory above the path at hand.
type parent struct {
	chosen
	counted          bool
	include, exclude patternmatcher.MatchInfo
}

func (w *walk) chosen(at string, s Selector) (func() digest.Digest, error) {
	c := &choice{walk: w, wildcard: s.Wildcard, follow: s.FollowLinks}
	if at != "" {
		c.pattern = "/" + at
	}
	var err error
	if len(s.Include) > 0 {
		if c.include, err = patternmatcher.New(s.Include); err != nil {
			return nil, fmt.Errorf("include patterns: %w", err)
		}
	}
	if len(s.Exclude) > 0 {
		if c.exclude, err = patternmatcher.New(s.Exclude); err != nil {
			return nil, fmt.Errorf("exclude patterns: %w", err)
		}
	}
	prefix, rest := c.pattern, ""
	if c.wildcard {
		prefix, rest = literal(c.pattern)
	}
	real, err := treehash.Resolve(w.tree, prefix, rest != "")
	if err != nil {
		return nil, err
	}
	st, err := w.tree.Lstat(real)
	if errors.Is(err, fs.ErrNotExist) {
		return func() digest.Digest { return nothing }, nil // nothing to choose from
	}
	if err == nil {
		err = c.visit(prefix, real, st)
	}
	if err != nil {
		return nil, err
	}
	return func() digest.Digest { return c.sum(prefix) }, nil
}

// literal splits a pattern before the first element that is one.
func literal(pattern string) (prefix, rest string) {
	elems := strings.Split(strings.TrimPrefix(pattern, "/"), "/")
	for i, e := range elems {
		if wild(e) {
			return strings.TrimSuffix("/"+path.Join(elems[:i]...), "/"), path.Join(elems[i:]...)
		}
	}
	return pattern, ""
}

func (c *choice) sum(prefix string) digest.Digest {
	switch {
	case len(c.found) == 0:
		return nothing
	case len(c.found) == 1 && path.Base(absolute(c.pattern)) == path.Base(absolute(c.found[0].path)):
		return c.found[0].sum()
	}
	h := sha256.New()
	for _, f := range c.found {
		name := strings.TrimPrefix(f.path, prefix)
		if name == "" {
			name = "/"
		}
		put(h, strings.ReplaceAll(name, "/", "\x00"), f.sum().String())
	}
	return digest.NewDigest(digest.SHA256, h)
}

// absolute is a path of the walk as BuildKit compares it: the root is "/".
func absolute(p string) string {
	if p == "" {
		return "/"
	}
	return p
}

// visit looks at what is called name and lies at at, and at what is beneath it.
func (c *choice) visit(name, at string, st *fstypes.Stat) error {
	if c.ctx.Err() != nil {
		return c.ctx.Err()
	}
	dir := fs.FileMode(st.Mode).IsDir()
	inside := c.top != "" && strings.HasPrefix(name, c.top+"/")
	if c.wildcard && !inside {
		ok, err := path.Match(c.pattern, name)
		if err != nil {
			return fmt.Errorf("bad pattern %q: %w", c.pattern, err)
		}
		if !ok {
			if dir && c.leads(name) {
				return c.below(name, at)
			}
			return nil
		}
		c.top = name
	}
	base := c.pattern
	if c.wildcard {
		base = c.top
	}
	rel := strings.TrimSuffix(strings.TrimPrefix(name+"/", base+"/"), "/")
	p := &parent{chosen: chosen{path: name}}
	keep, err := c.admits(rel, p)
	if err != nil || !keep && !dir {
		return err
	}
	if dir && name == c.pattern && name == "" {
		return c.below(name, at) // the properties of the root itself never count
	}
	p.sum = c.entry(at, st)
	if c.follow && len(c.parents) == 0 && fs.FileMode(st.Mode)&fs.ModeSymlink != 0 {
		if p.sum, err = c.path(at, true); err != nil {
			return err
		}
	}
	if keep {
		for _, above := range c.parents {
			if !above.counted {
				above.counted = true
				c.found = append(c.found, above.chosen)
			}
		}
		p.counted = true
		c.found = append(c.found, p.chosen)
	}
	if !dir {
		return nil
	}
	c.parents = append(c.parents, p)
	err = c.below(name, at)
	c.parents = c.parents[:len(c.parents)-1]
	return err
}

func (c *choice) below(name, at string) error {
	names, err := c.tree.ReadDir(at)
	if err != nil {
		return err
	}
	for _, n := range names {
		sub := path.Join(at, n)
		st, err := c.tree.Lstat(sub)
		if err != nil {
			return err
		}
		if err := c.visit(name+"/"+n, sub, st); err != nil {
			return err
		}
	}
	return nil
}

// leads reports whether something beneath a directory may match the pattern.
func (c *choice) leads(name string) bool {
	want, have := strings.Split(c.pattern, "/"), strings.Split(name, "/")
	if len(have) >= len(want) {
		return false
	}
	ok, err := path.Match(strings.Join(want[:len(have)], "/"), name)
	return ok || err != nil
}

// admits reports whether the patterns choose a path, and notes in p how they came to it.
func (c *choice) admits(rel string, p *parent) (bool, error) {
	var above parent
	if n := len(c.parents); n > 0 {
		above = *c.parents[n-1]
	}
	var ok bool
	var err error
	if c.include != nil {
		if ok, p.include, err = c.include.MatchesUsingParentResults(rel, above.include); err != nil || !ok {
			return false, err
		}
	}
	if c.exclude != nil {
		var not bool
		if not, p.exclude, err = c.exclude.MatchesUsingParentResults(rel, above.exclude); err != nil || not {
			return false, err
		}
	}
	return true, nil
}
