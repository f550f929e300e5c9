package ignore

import (
	"fmt"
	"path"
	"strings"
)

// A Verdict says whether a path is left out, and why.
type Verdict struct {
	Excluded bool
	// By is the pattern that decided, in File; nil if none matches.
	By   *Pattern
	File string
	// Parent is the directory around the path that By matches; "" if it matches the path.
	Parent string
}

// Explain decides about a path that is relative to the root of the context, as a sender
// that walks the tree does. The root itself is never left out.
func (f *File) Explain(name string) (Verdict, error) {
	e, err := f.Explainer()
	if err != nil {
		return Verdict{}, err
	}
	return e.Explain(name)
}

// An Explainer explains many paths of one file. It is not safe for concurrent use.
type Explainer struct {
	file     *File
	matchers []*matcher // one for each pattern
}

// Explainer returns an Explainer for f.
func (f *File) Explainer() (*Explainer, error) {
	e := &Explainer{file: f}
	for _, p := range f.patterns {
		m, err := newMatcher(p.Text)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", f.Name, p.Line, err)
		}
		e.matchers = append(e.matchers, m)
	}
	return e, nil
}

// Explain is File.Explain.
func (e *Explainer) Explain(name string) (Verdict, error) {
	v := Verdict{File: e.file.Name}
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return v, nil
	}
	// What matched a directory matches what is in it: where[i] is the outermost directory
	// that pattern i was found to match. A pattern is not even tried where it would change
	// nothing, and so is not known to match the directory when it comes to what is in it.
	where := make([]string, len(e.matchers))
	for end := 0; end < len(name); {
		if next := strings.IndexByte(name[end+1:], '/'); next >= 0 {
			end += 1 + next
		} else {
			end = len(name)
		}
		at := name[:end]
		v.Excluded, v.By = false, nil
		for i, m := range e.matchers {
			p := &e.file.patterns[i]
			if where[i] == "" {
				if p.Readmits() != v.Excluded {
					continue
				}
				ok, err := m.matches(at)
				if err != nil {
					return v, fmt.Errorf("%s:%d: %w", e.file.Name, p.Line, err)
				}
				if !ok {
					continue
				}
				where[i] = at
			}
			v.Excluded, v.By, v.Parent = !p.Readmits(), p, ""
			if where[i] != name {
				v.Parent = where[i]
			}
		}
	}
	if v.By == nil {
		v.Parent = ""
	}
	return v, nil
}

// String says it in words, without the path: "excluded by .dockerignore:4 "*.log"".
func (v Verdict) String() string {
	if v.By == nil {
		return "not excluded by any pattern"
	}
	did := "excluded"
	if !v.Excluded {
		did = "re-included"
	}
	s := fmt.Sprintf("%s by %s:%d %q", did, v.File, v.By.Line, v.By.Text)
	if v.Parent != "" {
		s += fmt.Sprintf(", which matches %s/", v.Parent)
	}
	return s
}
