package contextfs

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/patternmatcher"
	"github.com/moby/patternmatcher/ignorefile"
)

// everyPath lists a tree in which each directory has all these names, and so all there is to
// match for patterns that are made of them.
func everyPath(dir string, names []string, depth int) []string {
	var out []string
	for _, n := range names {
		p := join(dir, n)
		out = append(out, p)
		if depth > 1 {
			out = append(out, everyPath(p, names, depth-1)...)
		}
	}
	return out
}

// filtered is what a walk with the filter keeps, and the directories that it enters.
func filtered(f *filter, dir string, names []string, depth int, parent *matches) (kept, entered []string, err error) {
	for _, n := range names {
		p := join(dir, n)
		m, keep, enter, err := f.admit(p, depth > 1, parent)
		if err != nil {
			return nil, nil, err
		}
		if keep {
			kept = append(kept, p)
		}
		if !enter || depth == 1 {
			continue
		}
		k, e, err := filtered(f, p, names, depth-1, &m)
		if err != nil {
			return nil, nil, err
		}
		kept, entered = append(kept, k...), append(append(entered, p), e...)
	}
	return kept, entered, nil
}

// matched is what patternmatcher keeps if it is asked about every path.
func matched(include, exclude []string, paths []string) ([]string, error) {
	type infos struct{ include, exclude patternmatcher.MatchInfo }
	in, err := patternmatcher.New(include)
	if err != nil {
		return nil, err
	}
	ex, err := patternmatcher.New(exclude)
	if err != nil {
		return nil, err
	}
	parents := map[string]infos{}
	var kept []string
	for _, p := range paths {
		of := parents[filepath.Dir(p)]
		var m infos
		ok, hit := true, false
		if len(include) > 0 {
			if ok, m.include, err = in.MatchesUsingParentResults(p, of.include); err != nil {
				return nil, err
			}
		}
		if len(exclude) > 0 {
			if hit, m.exclude, err = ex.MatchesUsingParentResults(p, of.exclude); err != nil {
				return nil, err
			}
		}
		parents[p] = m
		if ok && !hit {
			kept = append(kept, p)
		}
	}
	return kept, nil
}

// A walk that does not enter what is left out finds what a walk of everything finds.
func FuzzFilter(f *testing.F) {
	f.Add("", "*\n!a/*/b\n", "x")
	f.Add("", "a\n!a/?b/**/a\n", "!a")
	f.Add("a*", "**/b\n!b/[a]\n", "b")
	f.Add("b/**\n!b/a", "*\n!a|b*\n", "b{2}")
	f.Add("", "**\n!**/b\nb/b\n!b/b/a*\n", "ab")
	f.Add("", "a\n!a[^b]b\n", "ab")
	f.Add("", "a\n!\ufeffa/b*\n", "c")
	f.Add("", "\xff\n!\xff/b*\n", "\xfe")
	f.Fuzz(func(t *testing.T, include, exclude, name string) {
		if len(include)+len(exclude) > 80 || len(name) > 10 || strings.ContainsAny(name, "/\x00") || name == "." || name == ".." {
			return
		}
		names := []string{"a", "ab", "b"}
		if name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
		in, err := ignorefile.ReadAll(strings.NewReader(include))
		if err != nil {
			return
		}
		ex, err := ignorefile.ReadAll(strings.NewReader(exclude))
		if err != nil {
			return
		}
		const depth = 3
		want, err := matched(in, ex, everyPath("", names, depth))
		if err != nil {
			return // what is not entered is not asked about, and may pass
		}
		flt, err := newFilter(Patterns{Include: in, Exclude: ex})
		if err != nil {
			t.Fatalf("%q, %q: %v", in, ex, err)
		}
		got, _, err := filtered(flt, "", names, depth, &matches{})
		if err != nil {
			t.Fatalf("%q, %q: %v", in, ex, err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("include %q, exclude %q, names %q: kept %q, want %q", in, ex, names, got, want)
		}
	})
}

// What is left out is entered only where something may be taken back in.
func TestExcludedDirectoriesAreNotEntered(t *testing.T) {
	names := []string{"apps", "clients", "package.json"}
	for _, c := range []struct {
		exclude string
		want    []string
	}{
		{"*", nil},
		{"*\n!clients/*/package.json", []string{"clients", "clients/apps", "clients/clients", "clients/package.json"}},
		{"*\n!clients/apps", []string{"clients", "clients/apps"}},
		{"*\n!cl*/apps/*", []string{"clients", "clients/apps"}},
		{"*\n!cl*/*", []string{"clients", "clients/apps", "clients/clients", "clients/package.json"}},
		{"*\n!a*s\napps/*\n!?pps/clients/*", []string{"apps", "apps/clients"}},
		{"clients\n!clients/x/**/y", []string{"apps", "apps/apps", "apps/clients", "apps/package.json", "clients", "package.json", "package.json/apps", "package.json/clients", "package.json/package.json"}},
	} {
		f, err := newFilter(Patterns{Exclude: strings.Split(c.exclude, "\n")})
		if err != nil {
			t.Fatal(err)
		}
		_, entered, err := filtered(f, "", names, 3, &matches{})
		if err != nil || !slices.Equal(entered, c.want) {
			t.Errorf("%q: entered %q, want %q, %v", c.exclude, entered, c.want, err)
		}
	}
}

func TestReadIgnore(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ name, text, want string }{
		{"", "", ""},
		{".containerignore", "a\n", ".containerignore"},
		{".dockerignore", "b\n", ".dockerignore"},
	} {
		if c.name != "" {
			if err := os.WriteFile(filepath.Join(dir, c.name), []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		f, err := ReadIgnore(dir)
		if err != nil || f.Name != c.want || len(f.Patterns()) != bytes.Count([]byte(c.text), []byte("\n")) {
			t.Errorf("after %q: got %q with %q, %v", c.name, f.Name, f.Patterns(), err)
		}
	}
}
