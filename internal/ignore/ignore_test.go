package ignore

import (
	"slices"
	"strings"
	"testing"

	"github.com/moby/patternmatcher"
)

func parse(t *testing.T, text string) *File {
	t.Helper()
	f, err := Parse(".dockerignore", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestParse(t *testing.T) {
	f := parse(t, "\xef\xbb\xbf# BOM\r\n\n  /a/../b  \n#c\n #d\n! /e/\n*.log\r\n")
	want := []Pattern{{"b", 3}, {"#d", 5}, {"!e", 6}, {"*.log", 7}}
	if !slices.Equal(f.patterns, want) {
		t.Errorf("got %v, want %v", f.patterns, want)
	}
	if got := (&File{}).Patterns(); got != nil {
		t.Errorf("no file has the patterns %v", got)
	}
}

func TestErrorsNameTheLine(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"ok\n[\n", `x:2: "[" is not a pattern`},
		{"# c\n\n!\n", `x:3: "!" is not a pattern`},
		{"a[z-a]\n", `x:1: "a[z-a]" is not a pattern`},
		{"!b[\n", `x:1: "!b[" is not a pattern`},
	} {
		if _, err := Parse("x", []byte(c.text)); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %s", c.text, err, c.want)
		}
	}
}

func TestExplain(t *testing.T) {
	for _, c := range []struct{ name, text, path, want string }{
		{"no pattern", "", "a", `not excluded by any pattern`},
		{"plain", "a\n", "a", `excluded by .dockerignore:1 "a"`},
		{"leading slash of the path", "a\n", "/a", `excluded by .dockerignore:1 "a"`},
		{"not the root", "*\n**\n", ".", `not excluded by any pattern`},
		{"parent", "x\na\n", "a/b/c", `excluded by .dockerignore:2 "a", which matches a/`},
		{"last match", "*.log\n*\n!k.log\n", "k.log", `re-included by .dockerignore:3 "!k.log"`},
		{"order", "!k.log\n*.log\n", "k.log", `excluded by .dockerignore:2 "*.log"`},
		{"child of an excluded directory", "a\n!a/b\n", "a/b", `re-included by .dockerignore:2 "!a/b"`},
		{"in a re-included directory", "a\n!a/b\n", "a/b/c", `re-included by .dockerignore:2 "!a/b", which matches a/b/`},
		{"any depth", "**/tmp\n", "x/y/tmp", `excluded by .dockerignore:1 "**/tmp"`},
		{"one level", "*/tmp\n", "x/y/tmp", `not excluded by any pattern`},
		{"nothing is left of the pattern", "/ /\n", "a", `not excluded by any pattern`},
		{"nothing to take back", "!a\n", "a", `not excluded by any pattern`},
	} {
		v, err := parse(t, c.text).Explain(c.path)
		if err != nil || v.String() != c.want {
			t.Errorf("%s: got %s, %v, want %s", c.name, v, err, c.want)
		}
	}
}

// walked is what patternmatcher says when a tree is walked from the root to a path.
func walked(t *testing.T, patterns []string, path string) bool {
	t.Helper()
	m, err := patternmatcher.New(patterns)
	if err != nil {
		t.Fatal(err)
	}
	var info patternmatcher.MatchInfo
	var hit bool
	parts := strings.Split(path, "/")
	for i := range parts {
		if hit, info, err = m.MatchesUsingParentResults(strings.Join(parts[:i+1], "/"), info); err != nil {
			t.Fatal(err)
		}
	}
	return hit
}

// What is explained is what a walk finds, whatever the patterns are.
func FuzzExplain(f *testing.F) {
	f.Add("x\n!x/c\nx\n", "x/c")
	f.Add("*\n!a/*/b\na/x\n", "a/x/b")
	f.Add("**\n!**/k\n", "a/k/z")
	f.Add("!!a\n!!b\n", "!a/b")
	f.Add("/ /", "0")
	f.Add("**\n!/ x\n!/\u00a0y", " x")
	f.Fuzz(func(t *testing.T, text, path string) {
		path = strings.Trim(path, "/")
		if len(text)+len(path) > 200 || strings.Contains("/"+path+"/", "//") || strings.Contains("/"+path+"/", "/../") || strings.Contains("/"+path+"/", "/./") {
			return
		}
		file, err := Parse("f", []byte(text))
		if err != nil {
			return
		}
		v, err := file.Explain(path)
		if err != nil {
			t.Fatal(err)
		}
		if want := walked(t, file.Patterns(), path); v.Excluded != want {
			t.Errorf("%q, %q: explained as %v (%s), walked %v", text, path, v.Excluded, v, want)
		}
	})
}
