package contextfs

import (
	"slices"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/tonistiigi/fsutil"
)

// Patterns say which paths of a directory are meant. They mean what they mean to fsutil:
// a path is left out unless it matches Include or is one of Follow (if there are any) and
// does not match Exclude; a directory that is left out is there nevertheless if something
// in it is.
type Patterns struct {
	Include, Exclude []string // as in .dockerignore
	Follow           []string // paths, and what symlinks in them lead to
}

// A filter decides about paths. It is not safe for concurrent use, not even its matchers
// are: they compile patterns when they first need them. But a decision of one filter about
// a directory may be used by another of the same patterns.
type filter struct {
	include, exclude *patternmatcher.PatternMatcher // nil: all, none
	// A directory that is left out is entered only if these may match something in it: what
	// Include asks for, and what Exclude takes back in.
	includes, exceptions reach
}

// matches is what is known of a directory for matching what is in it.
type matches struct{ include, exclude patternmatcher.MatchInfo }

// resolve returns p with what Follow leads to among Include.
func (p Patterns) resolve(f *FS) (Patterns, error) {
	if len(p.Follow) == 0 {
		return p, nil
	}
	targets, err := fsutil.FollowLinks(f, p.Follow)
	if err != nil {
		return p, err
	}
	p.Follow = nil
	if targets != nil {
		p.Include = outermost(append(slices.Clone(p.Include), targets...))
	}
	return p, nil
}

// newFilter returns a filter for p, which is resolved.
func newFilter(p Patterns) (*filter, error) {
	var out filter
	var err error
	if len(p.Include) > 0 {
		if out.include, err = patternmatcher.New(p.Include); err != nil {
			return nil, err
		}
		if out.includes, err = newReach(out.include, false); err != nil {
			return nil, err
		}
	}
	if len(p.Exclude) > 0 {
		if out.exclude, err = patternmatcher.New(p.Exclude); err != nil {
			return nil, err
		}
		if out.exceptions, err = newReach(out.exclude, true); err != nil {
			return nil, err
		}
	}
	return &out, nil
}

// outermost drops paths that lie below the one kept before them; "." makes the list empty,
// which admits everything.
func outermost(list []string) []string {
	var out []string
	last := ""
	for _, p := range list {
		if p == "." {
			return nil
		}
		if strings.HasPrefix(p, last+"/") {
			continue
		}
		out, last = append(out, p), p
	}
	return out
}

// admit decides about a path: whether it is meant, and if it is a directory, whether
// anything in it may be.
func (f *filter) admit(path string, dir bool, parent *matches) (m matches, keep, enter bool, err error) {
	keep, enter = true, dir
	if f.include != nil {
		var ok bool
		if ok, m.include, err = f.include.MatchesUsingParentResults(path, parent.include); err != nil {
			return m, false, false, err
		}
		if !ok {
			keep = false
			if dir {
				if enter, err = f.includes.into(path); !enter || err != nil {
					return m, false, false, err
				}
			}
		}
	}
	if f.exclude != nil {
		var hit bool
		if hit, m.exclude, err = f.exclude.MatchesUsingParentResults(path, parent.exclude); err != nil {
			return m, false, false, err
		}
		if hit {
			keep = false
			if dir {
				enter, err = f.exceptions.into(path)
			}
		}
	}
	return m, keep, enter, err
}
