package worker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/agext/levenshtein"
	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
)

// MissingError says that a file an instruction reads is not there, and why that may be.
type MissingError struct {
	Path string
	// Reads says which instruction looked for it, and where; zero if no frontend said so.
	Reads llb.Reads
	Hint  string // what may be meant instead, or why it is not there; or ""
	// Copying says that it was found out late: nobody needed the contents to know the step.
	Copying bool
}

func (e *MissingError) Error() string {
	if e.Reads.Keyword == "" {
		msg := fmt.Sprintf("%q: not found", e.Path)
		if e.Hint != "" {
			msg += " (" + e.Hint + ")"
		}
		return msg
	}
	msg := fmt.Sprintf("%s: %q is not in %s", e.Reads.Keyword, e.Reads.Written(e.Path), e.Reads.Place)
	if e.Hint != "" {
		msg += "; " + e.Hint
	}
	return msg
}

// Unwrap makes errors.Is(err, fs.ErrNotExist) hold.
func (e *MissingError) Unwrap() error { return fs.ErrNotExist }

// missing explains why a path of a tree is not there: the ignore pattern that kept it
// out of a synced directory, or else a name that is nearly the same, or what there is.
func missing(ctx context.Context, d solver.Demand, err error, name string, reads llb.Reads, ref solver.Ref, tree treehash.FS) error {
	if !errors.Is(err, fs.ErrNotExist) || strings.ContainsAny(name, "*?[") {
		return err
	}
	name = "/" + strings.TrimPrefix(name, "/")
	out := &MissingError{Path: name, Reads: reads}
	if by := reads.Ignored[name]; by != "" {
		out.Hint = "excluded by " + by
		return out
	}
	var names []string
	if t, ok := ref.(*TreeRef); ok {
		if pattern := t.ignoredBy(name); pattern != "" {
			out.Hint = fmt.Sprintf("it is excluded from the context by the pattern %q of the .dockerignore file", pattern)
			return out
		}
		names, _ = t.all(ctx, d) // without the list there is just no hint
	} else {
		names = siblings(tree, name)
	}
	if near := nearest(names, name); near != "" {
		out.Hint = fmt.Sprintf("did you mean %q?", reads.Written(near))
	} else if reads.Keyword != "" {
		out.Hint = holds(names, name)
	}
	return out
}

// siblings lists the directory of name, or the one around it that there is.
func siblings(tree treehash.FS, name string) []string {
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		at := strings.TrimPrefix(dir, "/")
		resolved, err := treehash.Resolve(tree, at, true)
		if err == nil {
			var names []string
			if names, err = tree.ReadDir(resolved); err == nil {
				for i, n := range names {
					names[i] = path.Join(at, n)
				}
				return names
			}
		}
		if dir == "/" {
			return nil
		}
	}
}

// nearest returns the name that is spelled most like want, if any is near.
func nearest(names []string, want string) string {
	want = strings.ToLower(want)
	best, limit := "", 1+len(path.Base(want))/3
	for _, n := range names {
		n = "/" + n
		if n == want || len(n) > len(want)+limit || len(n) < len(want)-limit {
			continue
		}
		if d := levenshtein.Distance(want, strings.ToLower(n), nil); d <= limit {
			best, limit = n, d-1
		}
	}
	if best != "" {
		return best
	}
	// The same file in another directory is the next best guess.
	for _, n := range names {
		if path.Base(n) == path.Base(want) && "/"+n != want {
			return "/" + n
		}
	}
	return ""
}

// mostShown bounds the names that an error lists.
const mostShown = 5

// holds says what there is in the directory of name, or in the one around it that exists.
func holds(names []string, name string) string {
	if len(names) == 0 {
		return "it is empty"
	}
	for dir := path.Dir(name); ; dir = path.Dir(dir) {
		prefix := strings.TrimPrefix(dir, "/")
		if prefix != "" {
			prefix += "/"
		}
		var in []string
		for _, n := range names {
			if rest, ok := strings.CutPrefix(n, prefix); ok && rest != "" {
				in = append(in, before(rest))
			}
		}
		slices.Sort(in)
		in = slices.Compact(in)
		in = slices.DeleteFunc(in, func(n string) bool { return slices.Contains(in, n+"/") })
		switch {
		case len(in) == 0 && dir != "/": // no such directory
		case dir != "/":
			return strings.TrimPrefix(dir, "/") + " has " + list(in)
		case len(in) == 1:
			return "there is " + list(in)
		default:
			return "there are " + list(in)
		}
	}
}

// before is the first element of a path, with a slash if there are more.
func before(p string) string {
	if i := strings.IndexByte(p, '/'); i >= 0 {
		return p[:i+1]
	}
	return p
}

// list writes names as a sentence does, and how many are left out.
func list(names []string) string {
	switch n := len(names); {
	case n == 1:
		return "only " + names[0]
	case n > mostShown:
		return strings.Join(names[:mostShown-1], ", ") + fmt.Sprintf(" and %d more", n-mostShown+1)
	default:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
}
