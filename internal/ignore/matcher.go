package ignore

import "github.com/moby/patternmatcher"

// A matcher tells which paths a single pattern is about, be it to leave them out or to take
// them back in.
type matcher struct {
	patterns *patternmatcher.PatternMatcher // everything, and then the pattern, if that takes back in
	readmits bool
	nothing  patternmatcher.MatchInfo // of a directory that no pattern matches
}

// everything matches all paths.
const everything = "**"

func newMatcher(text string) (*matcher, error) {
	m, err := patternmatcher.New([]string{text})
	if err != nil {
		return nil, err
	}
	out := &matcher{patterns: m, readmits: m.Exclusions()}
	none := []string{"x"}
	if out.readmits {
		none = []string{"x", "x"}
		if out.patterns, err = patternmatcher.New([]string{everything, text}); err != nil {
			return nil, err
		}
	}
	unmatched, err := patternmatcher.New(none)
	if err != nil {
		return nil, err
	}
	_, out.nothing, err = unmatched.MatchesUsingParentResults("y", patternmatcher.MatchInfo{})
	return out, err
}

// matches reports whether the pattern matches a path itself, not just a directory around it.
// A pattern of which nothing is left when it is cleaned matches nothing.
func (m *matcher) matches(name string) (bool, error) {
	if len(m.patterns.Patterns()) == 0 {
		return false, nil
	}
	hit, _, err := m.patterns.MatchesUsingParentResults(name, m.nothing)
	return hit != m.readmits, err
}
