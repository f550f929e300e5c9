package buildflags

import (
	"errors"
	"strings"
	"testing"
)

// With an epoch the layers are to depend on the input alone, unless an output says no.
func TestEpochRewritesTimes(t *testing.T) {
	for _, c := range []struct{ output, epoch, want string }{
		{"type=image,name=a", "7", "true"},
		{"type=oci,dest=x", "7", "true"},
		{"type=image,name=a,rewrite-timestamp=false", "7", "false"},
		{"type=image,name=a,unpack=true", "7", ""},
		{"type=tar,dest=x", "7", ""},
		{"type=image,name=a", "", ""},
	} {
		e, err := parseOutput(c.output)
		if err != nil {
			t.Fatal(err)
		}
		r := &Request{Attrs: map[string]string{"build-arg:SOURCE_DATE_EPOCH": c.epoch}, Exports: []Export{e}}
		if err := new(Flags).reproducible(r, Env{}); err != nil {
			t.Fatal(err)
		}
		if got := r.Exports[0].Attrs["rewrite-timestamp"]; got != c.want {
			t.Errorf("%s with epoch %q: rewrite-timestamp=%s, want %q", c.output, c.epoch, got, c.want)
		}
	}
}

// One switch: a time for all that is made, or an error that says what is in the way.
func TestReproducible(t *testing.T) {
	workdir(t, "Dockerfile", "repo/Dockerfile")
	committed := func(dir string) (string, error) {
		if dir != "repo" {
			return "", errors.New("git: not a git repository")
		}
		return "1600000000", nil
	}
	for _, c := range []struct {
		args, epoch, want string // the epoch, or what the error begins with
		fails             bool
	}{
		{args: "repo", want: "1600000000"},
		{args: "repo", epoch: "7", want: "7"},
		{args: ".", epoch: "7", want: "7"},
		{args: "--build-arg SOURCE_DATE_EPOCH=8 .", epoch: "7", want: "8"},
		{args: "https://example.com/r.git", want: "context"},
		{args: ".", fails: true, want: "--reproducible: no commit to take the time from: git: not a git repository; set SOURCE_DATE_EPOCH"},
		{args: "-", fails: true, want: "--reproducible: no commit to take the time from: the context is no directory"},
		{args: "https://example.com/a.tar", fails: true, want: "--reproducible: no commit"},
		{args: "repo", epoch: "context", fails: true, want: "--reproducible: SOURCE_DATE_EPOCH=context is not a number"},
		{args: "-o type=oci,dest=x,rewrite-timestamp=false repo", fails: true, want: "--reproducible: an output has rewrite-timestamp=false"},
		{args: "-o type=image,unpack repo", fails: true, want: "--reproducible: an output has unpack=true"},
		{args: "-t a --cache-to type=inline repo", fails: true, want: "--reproducible: a cache says when"},
		{args: "-t a --build-arg BUILDKIT_INLINE_CACHE=1 repo", fails: true, want: "--reproducible: a cache says when"},
		{args: "-t a --provenance mode=max,attach=index repo", fails: true, want: "--reproducible: attestations"},
		{args: "-o type=oci,dest=x --sbom true repo", fails: true, want: "--reproducible: attestations"},
		{args: "-t a --sbom true repo", want: "1600000000"},
	} {
		f, args := parsed(t, append([]string{"--reproducible"}, strings.Fields(c.args)...)...)
		r, err := f.Request(args[0], Env{
			Lookup: func(name string) (string, bool) {
				if name != SourceDateEpoch || c.epoch == "" {
					return "", false
				}
				return c.epoch, true
			},
			CommitTime: committed,
		})
		switch {
		case c.fails && (err == nil || !strings.HasPrefix(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %s", c.args, err, c.want)
		case !c.fails && err != nil:
			t.Errorf("%s: %v", c.args, err)
		case !c.fails:
			if got := r.Attrs["build-arg:"+SourceDateEpoch]; got != c.want {
				t.Errorf("%s: epoch %s, want %s", c.args, got, c.want)
			}
			for _, e := range r.Exports {
				if e.Attrs["rewrite-timestamp"] != "true" {
					t.Errorf("%s: times are not rewritten", c.args)
				}
			}
		}
	}
}
