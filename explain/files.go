package explain

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/dbuild/dbuild/internal/ignore"
	"github.com/moby/patternmatcher"
)

// maxNamed is how many files one step names.
const maxNamed = 5

// content compares the files that two steps read of directories of the client.
func (e *explainer) content(s, o *Step) (out []Cause) {
	for n, in := range s.Inputs {
		if n >= len(o.Inputs) || in.Slot != "" && in.Slot == o.Inputs[n].Slot || in.Parts == nil {
			continue
		}
		now, old := e.now.local(in.Step), e.old.local(o.Inputs[n].Step)
		if now == nil || old == nil || now.Sum == old.Sum {
			continue
		}
		if now.Files == nil && now.Count > 0 || old.Files == nil && old.Count > 0 {
			out = append(out, Cause{Kind: FileUnlisted, Subject: now.Name, Text: fmt.Sprintf("files of %s changed, which has too many to tell which (%d)", describe(now.Name), now.Count)})
			continue
		}
		out = append(out, e.files(old.read(o.Inputs[n].Parts), now.read(in.Parts))...)
	}
	return out
}

func describe(local string) string {
	if local == "context" {
		return "the build context"
	}
	return fmt.Sprintf("the directory %q", local)
}

// local is the directory that step i is, with what was taken from it on the way, or nil.
func (t *Trace) local(i int) *Local {
	for {
		s := &t.Steps[i]
		if s.Local > 0 {
			return &t.Locals[s.Local-1]
		}
		if s.own() || len(s.Inputs) == 0 {
			return nil
		}
		i = s.Inputs[len(s.Inputs)-1].Step // "[internal] apply .dockerignore" and the like
	}
}

// read are the files that are parts of l, by path.
func (l *Local) read(parts []Part) map[string]File {
	out := map[string]File{}
	for _, p := range parts {
		m := newMatcher(p)
		for _, f := range l.Files {
			if m.match(f.Path) {
				out[f.Path] = f
			}
		}
	}
	return out
}

// A matcher decides which paths belong to a part. It is a little generous: what it lets
// through counts only if it differs.
type matcher struct {
	elems            []string
	wildcard         bool
	include, exclude *patternmatcher.PatternMatcher
}

func newMatcher(p Part) *matcher {
	m := &matcher{wildcard: p.Wildcard}
	if clean := strings.TrimPrefix(path.Clean("/"+p.Path), "/"); clean != "" {
		m.elems = strings.Split(clean, "/")
	}
	if len(p.Include) > 0 {
		m.include, _ = patternmatcher.New(p.Include)
	}
	if len(p.Exclude) > 0 {
		m.exclude, _ = patternmatcher.New(p.Exclude)
	}
	return m
}

func (m *matcher) match(name string) bool {
	elems := strings.Split(name, "/")
	if len(elems) < len(m.elems) {
		return false
	}
	for i, want := range m.elems {
		if want == elems[i] {
			continue
		}
		if ok, err := path.Match(want, elems[i]); !m.wildcard || err != nil || !ok {
			return false
		}
	}
	if m.include != nil {
		if ok, err := m.include.MatchesOrParentMatches(name); err == nil && !ok {
			return false
		}
	}
	if m.exclude != nil {
		if ok, err := m.exclude.MatchesOrParentMatches(name); err == nil && ok {
			return false
		}
	}
	return true
}

// files compares what was read with what is read now. Directories count only if nothing
// else does: with their files they come and go.
func (e *explainer) files(was, is map[string]File) []Cause {
	ignored := newIgnorance(e.old, e.now)
	var content, modes, added, gone, ignores []Cause
	renamed := map[string]bool{}
	for _, p := range sortedKeys(is) {
		f := is[p]
		old, ok := was[p]
		switch {
		case !ok:
			if from := renamedFrom(f, was, is, renamed); from != "" {
				renamed[from] = true
				content = append(content, Cause{Kind: FileRenamed, Subject: p, Old: from, New: p, Text: fmt.Sprintf("%q is now named %q", from, p)})
				continue
			}
			c := Cause{Kind: FileAdded, Subject: p, Text: fmt.Sprintf("%q is new", p)}
			if by, line, text := ignored.readmitted(p); by != "" {
				c = Cause{Kind: IgnoreFile, Subject: p, File: by, Line: line, Text: fmt.Sprintf("%q is new: %s", p, text)}
				ignores = append(ignores, c)
				continue
			}
			added = append(added, c)
		case old.Sum != f.Sum:
			content = append(content, Cause{Kind: FileContent, Subject: p, Text: fmt.Sprintf("%q changed (content)", p)})
		case old.Mode != f.Mode:
			modes = append(modes, Cause{Kind: FileMode, Subject: p, Old: old.Mode, New: f.Mode, Text: fmt.Sprintf("%q changed (mode %s -> %s)", p, old.Mode, f.Mode)})
		}
	}
	for _, p := range sortedKeys(was) {
		if _, ok := is[p]; ok || renamed[p] {
			continue
		}
		if by, line, text := ignored.excluded(p); by != "" {
			ignores = append(ignores, Cause{Kind: IgnoreFile, Subject: p, File: by, Line: line, Text: fmt.Sprintf("%q is gone: %s", p, text)})
			continue
		}
		gone = append(gone, Cause{Kind: FileRemoved, Subject: p, Text: fmt.Sprintf("%q is gone", p)})
	}
	all := slices.Concat(ignores, content, modes, added, gone)
	all = withoutDirs(all, was, is)
	if len(all) > maxNamed {
		rest := len(all) - maxNamed
		all = append(all[:maxNamed:maxNamed], Cause{Kind: FileUnlisted, Text: fmt.Sprintf("and %d more files", rest)})
	}
	return all
}

// withoutDirs leaves out directories that came or went with what is in them.
func withoutDirs(list []Cause, was, is map[string]File) []Cause {
	return slices.DeleteFunc(list, func(c Cause) bool {
		f, ok := is[c.Subject]
		if !ok {
			f = was[c.Subject]
		}
		if !strings.HasPrefix(f.Mode, "d") || c.Kind != FileAdded && c.Kind != FileRemoved && c.Kind != IgnoreFile {
			return false
		}
		return slices.ContainsFunc(list, func(o Cause) bool { return strings.HasPrefix(o.Subject, c.Subject+"/") })
	})
}

// renamedFrom is a path that is gone and had what f has.
func renamedFrom(f File, was, is map[string]File, taken map[string]bool) string {
	if strings.HasPrefix(f.Mode, "d") {
		return ""
	}
	for _, p := range sortedKeys(was) {
		old := was[p]
		if _, still := is[p]; !still && !taken[p] && old.Sum == f.Sum && old.Mode == f.Mode && f.Sum != emptySum {
			return p
		}
	}
	return ""
}

// emptySum is the shortened digest of no bytes: all empty files are alike.
const emptySum = "e3b0c44298fc1c14"

// ignorance compares ignore files.
type ignorance struct{ was, is *ignore.Explainer }

func newIgnorance(old, now *Trace) ignorance {
	return ignorance{ignores(old), ignores(now)}
}

func ignores(t *Trace) *ignore.Explainer {
	for _, text := range t.Ignores {
		f, err := ignore.Parse(text.Name, []byte(text.Text))
		if err != nil {
			continue
		}
		if x, err := f.Explainer(); err == nil {
			return x
		}
	}
	return nil
}

func (g ignorance) verdict(x *ignore.Explainer, p string) ignore.Verdict {
	if x == nil {
		return ignore.Verdict{}
	}
	v, err := x.Explain(p)
	if err != nil {
		return ignore.Verdict{}
	}
	return v
}

// excluded says which line leaves out p, if it is new.
func (g ignorance) excluded(p string) (file string, line int, text string) {
	is, was := g.verdict(g.is, p), g.verdict(g.was, p)
	if !is.Excluded || was.Excluded {
		return "", 0, ""
	}
	return is.File, is.By.Line, fmt.Sprintf("%s:%d %q now excludes it", is.File, is.By.Line, is.By.Text)
}

// readmitted says which line left out p and does not any more.
func (g ignorance) readmitted(p string) (file string, line int, text string) {
	is, was := g.verdict(g.is, p), g.verdict(g.was, p)
	if is.Excluded || !was.Excluded {
		return "", 0, ""
	}
	if is.By != nil {
		return is.File, is.By.Line, fmt.Sprintf("%s:%d %q now includes it", is.File, is.By.Line, is.By.Text)
	}
	return was.File, was.By.Line, fmt.Sprintf("%s no longer excludes it (line %d was %q)", was.File, was.By.Line, was.By.Text)
}
