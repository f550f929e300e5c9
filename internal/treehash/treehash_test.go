package treehash

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	fstypes "github.com/tonistiigi/fsutil/types"
)

// tree is a filesystem in memory: path → what is there. A value that ends with a slash
// is a directory, "-> x" a symlink, anything else a file's content.
type tree map[string]string

func (t tree) Lstat(p string) (*fstypes.Stat, error) {
	if p == "" {
		return &fstypes.Stat{Mode: uint32(fs.ModeDir | 0o755)}, nil
	}
	v, ok := t[p]
	if !ok {
		for k := range t {
			if strings.HasPrefix(k, p+"/") {
				v, ok = "/", true
			}
		}
	}
	link, isLink := strings.CutPrefix(v, "-> ")
	switch {
	case !ok:
		return nil, &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist}
	case isLink:
		return &fstypes.Stat{Mode: uint32(fs.ModeSymlink | 0o777), Linkname: link}, nil
	case v == "/":
		return &fstypes.Stat{Mode: uint32(fs.ModeDir | 0o755)}, nil
	}
	return &fstypes.Stat{Mode: 0o644, Size: int64(len(v)), ModTime: rand.Int64()}, nil
}

func (t tree) ReadDir(p string) ([]string, error) {
	seen := map[string]bool{}
	for k := range t {
		rest, ok := strings.CutPrefix(k, p+"/")
		if p == "" {
			rest, ok = k, true
		}
		if ok {
			name, _, _ := strings.Cut(rest, "/")
			seen[name] = true
		}
	}
	var out []string
	for k := range seen {
		out = append(out, k)
	}
	slices.Sort(out)
	return out, nil
}

func (t tree) Open(p string) (io.ReadCloser, error) {
	if v, ok := t[p]; ok {
		return io.NopCloser(strings.NewReader(v)), nil
	}
	return nil, fs.ErrNotExist
}

var sample = tree{
	"a/one": "1", "a/two": "2", "a/sub/three": "3", "b/one": "1", "abs": "-> /a/sub", "rel": "-> a/sub/three",
	"up": "-> ../../../a", "loop": "-> loop", "dangling": "-> nowhere", "a/back": "-> ../b", "empty": "/",
}

func TestResolve(t *testing.T) {
	for _, c := range []struct {
		in     string
		follow bool
		want   string
		fails  bool
	}{
		{"a/one", true, "a/one", false},
		{"/a/../a/./one", true, "a/one", false},
		{"../../a", true, "a", false},
		{"abs", true, "a/sub", false},
		{"abs", false, "abs", false},
		{"abs/three", false, "a/sub/three", false},
		{"rel", true, "a/sub/three", false},
		{"up/one", true, "a/one", false},
		{"a/back/one", true, "b/one", false},
		{"dangling", true, "nowhere", false},
		{"no/such/thing", true, "no/such/thing", false},
		{"loop", true, "", true},
		{"a/one/x", true, "", true},
		{"", true, "", false},
	} {
		got, err := Resolve(sample, c.in, c.follow)
		if (err != nil) != c.fails || got != c.want {
			t.Errorf("Resolve(%q, %v) = %q, %v; want %q", c.in, c.follow, got, err, c.want)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		part  Part
		want  string
		fails bool
	}{
		{Part{Path: "a/one"}, "a/one", false},
		{Part{Path: "a/*", Wildcard: true}, "a/back a/one a/sub a/two", false},
		{Part{Path: "*/one", Wildcard: true}, "a/one b/one", false},
		{Part{Path: "abs/*", Wildcard: true}, "a/sub/three", false},
		{Part{Path: "*/three", Wildcard: true}, "", true},
		{Part{Path: "*/three", Wildcard: true, AllowNoMatch: true}, "", false},
		{Part{Path: "a/[ot]*", Wildcard: true}, "a/one a/two", false},
		{Part{Path: "nope"}, "", true},
		{Part{Path: "dangling"}, "dangling", false},
		{Part{Path: "dangling", FollowLinks: true}, "", true},
		{Part{Path: "["}, "", true},
		{Part{Path: "[", Wildcard: true}, "", true},
	} {
		got, err := Match(context.Background(), sample, c.part)
		if (err != nil) != c.fails || strings.Join(got, " ") != c.want {
			t.Errorf("Match(%+v) = %q, %v; want %q", c.part, got, err, c.want)
		}
		if c.fails && c.part.Path != "[" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Match(%+v): %v is not fs.ErrNotExist", c.part, err)
		}
	}
}

func mustSum(t *testing.T, tr FS, p Part) string {
	t.Helper()
	s, err := Sum(context.Background(), tr, p)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", s)
}

func TestSumTellsWhatCounts(t *testing.T) {
	base := func() tree { return tree{"d/x": "1", "d/y": "2", "d/s": "-> x", "other": "o"} }
	for _, c := range []struct {
		name   string
		part   Part
		change func(tree)
		same   bool
	}{
		{"nothing but times", Part{Path: "d"}, func(tree) {}, true},
		{"a file elsewhere", Part{Path: "d"}, func(t tree) { t["other"] = "changed" }, true},
		{"content", Part{Path: "d"}, func(t tree) { t["d/x"] = "9" }, false},
		{"a new name", Part{Path: "d"}, func(t tree) { t["d/z"] = t["d/y"]; delete(t, "d/y") }, false},
		{"a link's target", Part{Path: "d"}, func(t tree) { t["d/s"] = "-> y" }, false},
		{"a file becomes a directory", Part{Path: "d"}, func(t tree) { delete(t, "d/y"); t["d/y/z"] = "2" }, false},
		{"an excluded file", Part{Path: "d", Exclude: []string{"y"}}, func(t tree) { t["d/y"] = "9" }, true},
		{"a file that is not included", Part{Path: "d", Include: []string{"x"}}, func(t tree) { t["d/y"] = "9" }, true},
		{"an included file", Part{Path: "d", Include: []string{"x"}}, func(t tree) { t["d/x"] = "9" }, false},
		{"one more match", Part{Path: "d/*", Wildcard: true}, func(t tree) { t["d/z"] = "" }, false},
		{"no further match", Part{Path: "d/[xy]", Wildcard: true}, func(t tree) { t["d/z"] = "" }, true},
		{"what a link leads to", Part{Path: "d/s", FollowLinks: true}, func(t tree) { t["d/x"] = "9" }, false},
		{"what a link that is not followed leads to", Part{Path: "d/s"}, func(t tree) { t["d/x"] = "9" }, true},
	} {
		before := mustSum(t, base(), c.part)
		after := base()
		c.change(after)
		if same := mustSum(t, after, c.part) == before; same != c.same {
			t.Errorf("%s: same sum is %v, want %v", c.name, same, c.same)
		}
	}
}

// A directory with everything excluded but one file equals one with just that file.
func TestExcludeEqualsAbsence(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		full, kept := tree{}, tree{"d/keep": "k"}
		full["d/keep"] = "k"
		for i := range r.IntN(20) {
			dir := []string{"d", "d/x", "d/x/y"}[r.IntN(3)]
			full[path.Join(dir, fmt.Sprintf("f%d.log", i))] = "l"
		}
		part := Part{Path: "d", Exclude: []string{"**/*.log", "x"}}
		if mustSum(t, full, part) != mustSum(t, kept, part) {
			t.Fatalf("%v", full)
		}
	}
}

func TestPartIDsDiffer(t *testing.T) {
	seen := map[[32]byte]Part{}
	for _, p := range []Part{
		{}, {Path: "a"}, {Path: "a", Wildcard: true}, {Path: "a", FollowLinks: true}, {Path: "a", AllowNoMatch: true},
		{Path: "a", Include: []string{"b"}}, {Path: "a", Exclude: []string{"b"}}, {Path: "a", Include: []string{"b", ""}},
	} {
		if q, ok := seen[p.ID()]; ok {
			t.Errorf("%+v and %+v have one id", p, q)
		}
		seen[p.ID()] = p
	}
	if (Part{Path: "/a/"}).ID() != (Part{Path: "a"}).ID() {
		t.Error("two spellings of one path differ")
	}
}

func FuzzResolve(f *testing.F) {
	f.Add("a/../b/one", "-> ../../a")
	f.Fuzz(func(t *testing.T, name, link string) {
		tr := tree{"a/one": "1", "l": "-> " + link, "a/l": "-> " + link}
		for _, follow := range []bool{true, false} {
			got, err := Resolve(tr, name, follow)
			if err == nil && got != clean(got) {
				t.Errorf("Resolve(%q) = %q is not clean", name, got)
			}
		}
	})
}
