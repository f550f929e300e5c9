package contextfs

import (
	"path/filepath"
	"strings"
	"unicode/utf8"

	"github.com/moby/patternmatcher"
)

const separator = string(filepath.Separator)

// A reach says which directories patterns may match something in. What patterns match a
// directory itself is another question: what is in it then goes with it, without being looked
// at.
type reach struct {
	anywhere bool     // they may, everywhere
	plain    []string // paths without wildcards, each with a slash at its end
	globs    []glob
}

// A glob is a pattern with wildcards that do not match slashes, as far as it has only such.
type glob struct {
	// levels match the directories at depth 1, 2, ... on the way to what the pattern matches.
	levels []*patternmatcher.PatternMatcher
	deep   bool // what follows may match at any depth
}

// newReach returns the reach of the patterns of one sign.
func newReach(m *patternmatcher.PatternMatcher, exclusion bool) (reach, error) {
	var r reach
	for _, p := range m.Patterns() {
		if p.Exclusion() != exclusion {
			continue
		}
		s := p.String()
		switch wild := strings.ContainsAny(s, `*?[]\`); {
		case !wild:
			r.plain = append(r.plain, s+separator)
		case strings.HasPrefix(s, "!") || strings.ContainsAny(s, "{|}^\ufeff\ufffd") || !utf8.ValidString(s):
			// With a wildcard, a pattern becomes a regular expression, and some of these then
			// mean something else.
			r.anywhere = true
		default:
			g, err := newGlob(s)
			if err != nil {
				return r, err
			}
			r.globs = append(r.globs, g)
			r.anywhere = r.anywhere || g.deep && len(g.levels) == 0
		}
	}
	return r, nil
}

func newGlob(pattern string) (glob, error) {
	var g glob
	at := ""
	names := strings.Split(pattern, separator)
	for i, name := range names {
		// A class may match a slash, and so may what is escaped.
		if strings.Contains(name, "**") || strings.ContainsAny(name, `[]\`) {
			g.deep = true
			break
		}
		if i == len(names)-1 {
			break
		}
		at = join(at, name)
		m, err := patternmatcher.New([]string{at})
		if err != nil {
			return g, err
		}
		g.levels = append(g.levels, m)
	}
	return g, nil
}

// into reports whether something below the directory dir may be matched.
func (r *reach) into(dir string) (bool, error) {
	if r.anywhere {
		return true, nil
	}
	for _, p := range r.plain {
		if len(p) > len(dir) && p[len(dir)] == filepath.Separator && p[:len(dir)] == dir {
			return true, nil
		}
	}
	for i := range r.globs {
		if ok, err := r.globs[i].into(dir); ok || err != nil {
			return ok, err
		}
	}
	return false, nil
}

func (g *glob) into(dir string) (bool, error) {
	depth := 1 + strings.Count(dir, separator)
	if depth > len(g.levels) {
		if !g.deep {
			return false, nil
		}
		for ; depth > len(g.levels); depth-- {
			dir = dir[:strings.LastIndexByte(dir, filepath.Separator)]
		}
	}
	return g.levels[depth-1].MatchesOrParentMatches(dir)
}
