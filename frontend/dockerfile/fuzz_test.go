package dockerfile

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/dbuild/dbuild/frontend"
)

// FuzzDockerfile converts a text with a build arg NAME=VALUE and for a platform. There is a
// result or an error that says where it is; neither takes long.
func FuzzDockerfile(f *testing.F) {
	f.Add("FROM localhost:5731/base\nRUN x\n", "", "")
	for _, c := range bad {
		f.Add(c.text, "", "")
	}
	for _, c := range badDialect {
		f.Add(c.text, "", "")
	}
	f.Add("# dbuild=1\nARG F=fragment\nINCLUDE $F\nFROM --reset=env:A,label:x* a AS b\nCOPY --from=${F:-a} --when=$V a b? c\\? /\nINCLUDE $F\nINCLUDE other\n", "V=1", "")
	f.Add(large(40), "a=1", "linux/arm64,linux/amd64")
	f.Add("FROM localhost:5731/base AS x\nARG V\nEXPORT --as=g COPY a* /b/\nEXPORT ENV A=${V:-$A} B\nEXPORT RUN <<E\n$V\nE\nEXPORT DIFF\nFROM x\nIMPORT --from=x --link --env-prefix=P g default\nONBUILD IMPORT x\n", "V=a$b", "")
	f.Add("FROM scratch\nCOPY <<A <<-B x /\n$V\nA\n\tb\nB\nADD git@h:p.git#r:s https://x/y?z /d/\n", "V=${", "windows/amd64")
	files, err := filepath.Glob("../../testdata/dockerfile/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		ar, err := txtar.ParseFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(ar.Files[0].Data), "V=1", "")
	}
	bridge := newFakeBridge(f)
	images := bridge.images
	f.Fuzz(func(t *testing.T, text, arg, platform string) {
		if len(text) > 1<<16 {
			return // length is what BenchmarkLines is about
		}
		bridge := &fakeBridge{files: map[string][]byte{"Dockerfile": []byte(text), "other": []byte(text), "fragment": []byte("FROM scratch AS a\n\nRUN --timeout=1s --retry=1 x\n")}, platforms: bridge.platforms, images: images}
		k, v, _ := strings.Cut(arg, "=")
		opts := map[string]string{"build-arg:" + k: v, "platform": platform}
		built, err := Convert(t.Context(), bridge, &frontend.Request{Opts: opts})
		if err != nil {
			checkError(t, err, text)
			return
		}
		for _, p := range built {
			if p.Image == nil || p.Definition == nil {
				t.Fatal("neither an error nor a result")
			}
		}
		opts["requestid"] = "frontend.outline"
		if _, err := New().Solve(t.Context(), bridge, &frontend.Request{Opts: opts}); err != nil {
			t.Fatalf("what can be converted has no outline: %v", err)
		}
	})
}

// checkError says whether an error is one sentence about lines that there are.
func checkError(t *testing.T, err error, text string) {
	t.Helper()
	msg := err.Error()
	if strings.TrimSpace(msg) == "" {
		t.Fatal("the error says nothing")
	}
	if utf8.ValidString(text) && strings.Contains(msg, "runtime error") || strings.Contains(msg, "*instruction.") {
		t.Fatalf("the error %q is for programmers", msg)
	}
	lines := strings.Count(text, "\n") + 1
	var src *errdefs.SourceError
	if errors.As(err, &src) {
		for _, r := range src.Ranges {
			if r.Start.Line < 0 || int(r.Start.Line) > lines {
				t.Fatalf("the error %q is about line %d of %d", msg, r.Start.Line, lines)
			}
		}
	}
	var at *parser.LocationError
	if errors.As(err, &at) && src == nil {
		t.Fatalf("the error %q knows its lines and does not show them", msg)
	}
}
