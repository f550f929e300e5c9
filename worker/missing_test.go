package worker

import (
	"io/fs"
	"testing"

	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/dbuild/dbuild/llb"
)

func TestMissingErrorIsOneSentence(t *testing.T) {
	build := llb.Reads{Keyword: "COPY", Place: `stage "build"`}
	for want, err := range map[string]MissingError{
		`"/x": not found`:                                        {Path: "/x"},
		`"/x": not found (did you mean "/y"?)`:                   {Path: "/x", Hint: `did you mean "/y"?`},
		`COPY: "/x" is not in stage "build"`:                     {Path: "/x", Reads: build},
		`COPY: "/x" is not in stage "build"; it is empty`:        {Path: "/x", Reads: build, Hint: "it is empty"},
		`ADD: "x" is not in the build context; it is empty`:      {Path: "/x", Reads: llb.Reads{Keyword: "ADD", Place: llb.BuildContext}, Hint: "it is empty"},
		`RUN: "d/x" is not in context "assets"; there is only a`: {Path: "/d/x", Reads: llb.Reads{Keyword: "RUN", Place: `context "assets"`}, Hint: "there is only a"},
		`COPY: "/x" is not in stage "context"`:                   {Path: "/x", Reads: llb.Reads{Keyword: "COPY", Place: `stage "context"`}},
	} {
		if got := err.Error(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestMissingNamesTheIgnoreLine(t *testing.T) {
	reads := llb.Reads{Keyword: "COPY", Place: llb.BuildContext, Ignored: map[string]string{"/x.d": `.dockerignore:4 "*.d"`}}
	err := missing(t.Context(), nil, fs.ErrNotExist, "x.d", reads, &Ref{}, treehash.Empty)
	if want := `COPY: "x.d" is not in the build context; excluded by .dockerignore:4 "*.d"`; err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	err = missing(t.Context(), nil, fs.ErrNotExist, "y", reads, &Ref{}, treehash.Empty)
	if want := `COPY: "y" is not in the build context; it is empty`; err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if err := missing(t.Context(), nil, fs.ErrNotExist, "*.d", reads, &Ref{}, treehash.Empty); err != fs.ErrNotExist {
		t.Errorf("a pattern: %v", err)
	}
}

func TestHolds(t *testing.T) {
	for _, c := range []struct {
		name, want string
		names      []string
	}{
		{"/x", "it is empty", nil},
		{"/x", "there is only a", []string{"a"}},
		{"/x", "there are a and d/", []string{"a", "d", "d/b"}},
		{"/x", "there are a, b, c, d and 2 more", []string{"f", "e", "d", "c", "b", "a"}},
		{"/d/x", "d has only b", []string{"a", "d", "d/b"}},
		{"/d/x", "d has b and c", []string{"d/b", "d/c"}},
		{"/no/such/x", "there are a and d/", []string{"a", "d", "d/b"}},
		{"/d/no/x", "d has b/ and c", []string{"d/b/y", "d/c"}},
	} {
		if got := holds(c.names, c.name); got != c.want {
			t.Errorf("%s in %v: got %q, want %q", c.name, c.names, got, c.want)
		}
	}
}
