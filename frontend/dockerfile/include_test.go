package dockerfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/dbuild/dbuild/frontend"
)

// includes is a bridge with the files of an archive.
func includes(t testing.TB, archive string) *fakeBridge {
	t.Helper()
	b := newFakeBridge(t)
	for _, f := range txtar.Parse([]byte(archive)).Files {
		b.files[f.Name] = f.Data
	}
	return b
}

// TestInclude compares what a Dockerfile in parts lowers to with what it does in one.
func TestInclude(t *testing.T) {
	web := []byte("COPY web /\n")
	for _, c := range []struct {
		name, archive, whole string
		opts                 map[string]string
	}{
		{"stages", `
-- Dockerfile --
# dbuild=1
INCLUDE args
INCLUDE stages/all
COPY --from=$WHICH x /
-- args --
ARG WHICH=b
-- stages/all --
FROM scratch AS a
COPY a /
INCLUDE one
INCLUDE /last
-- stages/one --
FROM scratch AS b
COPY b /
-- last --
FROM scratch
`, "# dbuild=1\nARG WHICH=b\nFROM scratch AS a\nCOPY a /\nFROM scratch AS b\nCOPY b /\nFROM scratch\nCOPY --from=$WHICH x /\n", nil},
		{"in the middle", `
-- Dockerfile --
# dbuild=1
FROM localhost:5731/base
ARG A=1
INCLUDE run
ENV C=$B
RUN z
-- run --
# only a comment before it

ARG B=${A}2
RUN <<EOF
INCLUDE is text
EOF
`, "FROM localhost:5731/base\nARG A=1\nARG B=${A}2\nRUN <<EOF\nINCLUDE is text\nEOF\nENV C=$B\nRUN z\n", nil},
		{"paths with args", `
-- Dockerfile --
# dbuild=1
ARG DIR=parts
FROM scratch
ARG DIR
ARG NAME=${DIR}1
INCLUDE $DIR/${NAME}
INCLUDE ${DIR}/${OTHER:-y}
-- parts/given1 --
COPY no /
-- given/given1 --
COPY yes /
-- given/y --
COPY y /
`, "ARG DIR=parts\nFROM scratch\nARG DIR\nARG NAME=${DIR}1\nCOPY yes /\nCOPY y /\n", map[string]string{"build-arg:DIR": "given"}},
		{"escape", "\n-- Dockerfile --\n# escape=`\n# dbuild=1\nFROM scratch\nINCLUDE a\nINCLUDE b\n-- a --\nCOPY a `\n  a2 /\n-- b --\n# escape=`\nCOPY b `\n  b2 /\n",
			"# escape=`\nFROM scratch\nCOPY a `\n  a2 /\nCOPY b `\n  b2 /\n", nil},
		{"empty", "\n-- Dockerfile --\n# dbuild=1\nFROM scratch\nINCLUDE a\nINCLUDE b\nCOPY c /\n-- a --\n-- b --\n# nothing\n\n", "FROM scratch\nCOPY c /\n", nil},
		{"twice", "\n-- Dockerfile --\n# dbuild=1\nFROM scratch AS x\nINCLUDE a\nFROM scratch\nINCLUDE a\nINCLUDE a\n-- a --\nCOPY a /\n",
			"FROM scratch AS x\nCOPY a /\nFROM scratch\nCOPY a /\nCOPY a /\n", nil},
		{"named context", "\n-- Dockerfile --\n# dbuild=1\nFROM scratch\nINCLUDE shared:dir/a\n-- shared-dir/dir/a --\nCOPY a /\nINCLUDE b\nINCLUDE /c\n-- shared-dir/dir/b --\nCOPY b /\n-- shared-dir/c --\nCOPY c /\n",
			"FROM scratch\nCOPY a /\nCOPY b /\nCOPY c /\n", map[string]string{"context:shared": "local:shared-dir"}},
		{"url", fmt.Sprintf("\n-- Dockerfile --\n# dbuild=1\nFROM scratch\nINCLUDE https://x/y@%[1]s\nINCLUDE --checksum=%[1]s https://x/y\n-- https://x/y/fragment --\n%[2]s", digest.FromBytes(web), web),
			"FROM scratch\nCOPY web /\nCOPY web /\n", nil},
		{"other directory", "\n-- sub/Docker --\n# dbuild=1\nFROM scratch\nINCLUDE a\nINCLUDE ../b\n-- sub/a --\nCOPY a /\n-- b --\nCOPY b /\n",
			"FROM scratch\nCOPY a /\nCOPY b /\n", map[string]string{"filename": "sub/Docker"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Convert(t.Context(), includes(t, c.archive), &frontend.Request{Opts: c.opts})
			if err != nil {
				t.Fatal(err)
			}
			one := newFakeBridge(t)
			one.files["Dockerfile"] = []byte(c.whole)
			opts := map[string]string{}
			for k, v := range c.opts {
				if k != "filename" {
					opts[k] = v
				}
			}
			want, err := Convert(t.Context(), one, &frontend.Request{Opts: opts})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want[0].Definition.Def, got[0].Definition.Def); d != "" {
				t.Errorf("the operations differ: %s", d)
			}
			if d := cmp.Diff(want[0].Image, got[0].Image); d != "" {
				t.Error(d)
			}
		})
	}
}

// bounded makes fragments of which each includes the next a number of times.
func bounded(n, times int) string {
	var b strings.Builder
	b.WriteString("\n-- Dockerfile --\n# dbuild=1\nFROM scratch\nINCLUDE f0\n")
	for i := range n {
		fmt.Fprintf(&b, "-- f%d --\nLABEL a=b\n%s", i, strings.Repeat(fmt.Sprintf("INCLUDE f%d\n", i+1), times))
	}
	fmt.Fprintf(&b, "-- f%d --\n", n)
	return b.String()
}

func TestIncludeErrors(t *testing.T) {
	const head = "\n-- Dockerfile --\n# dbuild=1\nFROM localhost:5731/base\n"
	for _, c := range []struct {
		name, archive string
		opts          map[string]string
		file          string
		line          int
		want          string
	}{
		{name: "missing", archive: head + "INCLUDE x/y\n", file: "Dockerfile", line: 3, want: "INCLUDE x/y: there is no x/y: a path is seen from the directory of the file that includes it"},
		{name: "missing from fragment", archive: head + "INCLUDE a\n-- a --\n\nINCLUDE b\n", file: "a", line: 2, want: "a, included on line 3 of Dockerfile: dockerfile parse error on line 2: INCLUDE b: there is no b"},
		{name: "nothing", archive: head + "INCLUDE\n", file: "Dockerfile", line: 3, want: "INCLUDE requires exactly one argument"},
		{name: "flag", archive: head + "INCLUDE --checksums=x y\n", file: "Dockerfile", line: 3, want: "unknown flag: --checksums (did you mean checksum?)"},
		{name: "itself", archive: head + "INCLUDE Dockerfile\n", file: "Dockerfile", line: 3, want: "it includes itself: Dockerfile -> Dockerfile"},
		{name: "cycle", archive: head + "INCLUDE a\n-- a --\nINCLUDE b\n-- b --\nLABEL x=y\nINCLUDE ./a\n", file: "b", line: 2, want: "it includes itself: a -> b -> a"},
		{name: "depth", archive: bounded(40, 1), file: "f31", line: 2, want: "more than 32 deep"},
		{name: "number", archive: bounded(12, 2), file: "f11", line: 3, want: "more than 1000 fragments"},
		{name: "escape", archive: head + "INCLUDE a\n-- a --\n# escape=`\nRUN x\n", file: "a", line: 1, want: "the escape character of a fragment must be that of the Dockerfile"},
		{name: "version", archive: head + "INCLUDE a\n-- a --\n# dbuild=3\nRUN x\n", file: "a", line: 1, want: `unknown version "3"`},
		{name: "outside", archive: head + "INCLUDE ../x\n", file: "Dockerfile", line: 3, want: "../x is not below the directory that the build is given; name one with --build-context NAME=DIR and write NAME:PATH"},
		{name: "unknown arg", archive: "\n-- Dockerfile --\n# dbuild=1\nARG DIR=x\nINCLUDE $DRI/a\n", file: "Dockerfile", line: 3, want: "no ARG above this line gives $DRI a value (did you mean DIR?)"},
		{name: "platform arg", archive: head + "INCLUDE $TARGETARCH\n", file: "Dockerfile", line: 3, want: "the Dockerfile is read once for all of them"},
		{name: "no context", archive: head + "INCLUDE shraed:a\n", opts: map[string]string{"context:shared": "local:s"}, file: "Dockerfile", line: 3, want: "there is no context named shraed: give it with --build-context shraed=DIR, or write ./shraed:... for a path (did you mean shared?)"},
		{name: "not in context", archive: head + "INCLUDE shared:a\n", opts: map[string]string{"context:shared": "local:s"}, file: "Dockerfile", line: 3, want: "there is no a in the context shared"},
		{name: "url", archive: head + "INCLUDE https://x/y\n", file: "Dockerfile", line: 3, want: "its digest is needed"},
		{name: "url changed", archive: head + "INCLUDE https://x/y@sha256:" + strings.Repeat("0", 64) + "\n-- https://x/y/fragment --\nRUN x\n", file: "Dockerfile", line: 3, want: "its digest is not sha256:0000"},
		{name: "checksum", archive: head + "INCLUDE --checksum=sha256:12 https://x/y\n", file: "Dockerfile", line: 3, want: `checksum "sha256:12"`},
		{name: "checksum of a path", archive: head + "INCLUDE --checksum=sha256:12 y\n", file: "Dockerfile", line: 3, want: "--checksum is for URLs"},
		{name: "path from url", archive: fmt.Sprintf("%sINCLUDE https://x/y@%s\n-- https://x/y/fragment --\nINCLUDE z\n", head, digest.FromString("INCLUDE z\n")), file: "https://x/y", line: 1, want: "https://x/y was downloaded, and what it includes must be a URL or in a named context"},
		{name: "onbuild", archive: head + "ONBUILD INCLUDE x\n", file: "Dockerfile", line: 3, want: "INCLUDE"},

		// Errors in a fragment, from reading it to building.
		{name: "grammar", archive: head + "INCLUDE a\n-- a --\n# c\nRUN <<X\n", file: "a", line: 2, want: "a, included on line 3 of Dockerfile: dockerfile parse error on line 2: unterminated heredoc"},
		{name: "grammar with an escape", archive: "\n-- Dockerfile --\n# escape=`\n# dbuild=1\nFROM scratch\nINCLUDE a\n-- a --\n# c\nRUN <<X\n", file: "a", line: 2, want: "dockerfile parse error on line 2: unterminated heredoc"},
		{name: "instruction", archive: head + "INCLUDE d/a\n-- d/a --\n\n\nCOPPY x y\n", file: "d/a", line: 3, want: "d/a, included on line 3 of Dockerfile: dockerfile parse error on line 3: unknown instruction: COPPY (did you mean COPY?)"},
		{name: "before from", archive: "\n-- Dockerfile --\n# dbuild=1\nINCLUDE a\nFROM scratch\n-- a --\nRUN x\n", file: "a", line: 1, want: "RUN must come after FROM"},
		{name: "lowering", archive: head + "INCLUDE a\n-- a --\nRUN x\nEXPOSE 70000\n", file: "a", line: 2, want: `invalid port "70000"`},
		{name: "after the fragment", archive: head + "INCLUDE a\nEXPOSE 70000\n-- a --\nRUN x\nRUN y\nRUN z\n", file: "Dockerfile", line: 4, want: `invalid port "70000"`},
		{name: "of second", archive: head + "INCLUDE a\nINCLUDE b\n-- a --\nRUN x\nRUN y\n-- b --\nRUN z\nEXPOSE x\n", file: "b", line: 2, want: `invalid port "x"`},
		{name: "later stage", archive: "\n-- Dockerfile --\n# dbuild=1\nFROM localhost:5731/base AS a\nCOPY --from=b x /\nINCLUDE b\nFROM a\n-- b --\n\nFROM scratch AS b\n", file: "Dockerfile", line: 3, want: "it begins on line 2 of b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := New().Solve(t.Context(), includes(t, c.archive), &frontend.Request{Opts: c.opts})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("the error is\n%v\nwithout\n%s", err, c.want)
			}
			var src *errdefs.SourceError
			if !errors.As(err, &src) {
				t.Fatalf("%v has no source", err)
			}
			if src.Info.Filename != c.file || int(src.Ranges[0].Start.Line) != c.line {
				t.Errorf("the error %v is about %s:%d", err, src.Info.Filename, src.Ranges[0].Start.Line)
			}
			for _, r := range src.Ranges {
				if n := strings.Count(string(src.Info.Data), "\n"); int(r.End.Line) > n+1 {
					t.Errorf("line %d of %d", r.End.Line, n)
				}
			}
		})
	}
}

// TestIncludeSources checks where the operations, warnings and answers say that they come from.
func TestIncludeSources(t *testing.T) {
	const archive = `
-- Dockerfile --
# dbuild=1
FROM localhost:5731/base as one
INCLUDE a
RUN last
-- a --
# a stage
# target says where
FROM one as Target
RUN --mount=type=secret,id=s,target=/s in-a
INCLUDE b
-- b --
ARG B=1
MAINTAINER me
RUN in-b
`
	bridge := includes(t, archive)
	built, err := Convert(t.Context(), bridge, &frontend.Request{})
	if err != nil {
		t.Fatal(err)
	}
	def := built[0].Definition
	got := map[string]string{}
	for d, locations := range def.Source.Locations {
		for _, l := range locations.Locations {
			info := def.Source.Infos[l.SourceIndex]
			_, name, _ := strings.Cut(def.Metadata[d].Description["llb.customname"], "] ")
			got[name] = fmt.Sprintf("%s:%d", info.Filename, l.Ranges[0].Start.Line)
			if len(info.Definition.GetDef()) == 0 || info.Language != "Dockerfile" {
				t.Errorf("%s does not say where it is from", info.Filename)
			}
		}
	}
	for name, want := range map[string]string{"RUN --mount=type=secret,id=s,target=/s in-a": "a:4", "RUN in-b": "b:3", "RUN last": "Dockerfile:4"} {
		if got[name] != want {
			t.Errorf("%s is at %s, not %s", name, got[name], want)
		}
	}
	var warned []string
	for _, w := range bridge.warnings {
		warned = append(warned, fmt.Sprintf("%s:%d %s", w.Source.Filename, w.Ranges[0].Start.Line, w.Short))
	}
	want := []string{
		"Dockerfile:2 FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 2)",
		"a:3 StageNameCasing: Stage name 'Target' should be lowercase (line 3 of a)",
		"a:3 FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 3 of a)",
		"b:2 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2 of b)",
	}
	if d := cmp.Diff(want, warned); d != "" {
		t.Error(d)
	}

	for id, places := range map[string][]string{
		"frontend.lint": {"0:2", "1:3", "1:3", "2:2"}, "frontend.outline": {"1:4", "2:1"}, "frontend.targets": {"0:2", "1:3"},
	} {
		res, err := New().Solve(t.Context(), includes(t, archive), &frontend.Request{Opts: map[string]string{"requestid": id}})
		if err != nil {
			t.Fatal(err)
		}
		type located struct{ Location *pb.Location }
		var answer struct {
			Warnings, Targets, Secrets, Args []located
			Sources                          []any
		}
		if err := json.Unmarshal(res.Metadata["result.json"], &answer); err != nil {
			t.Fatal(err)
		}
		if len(answer.Sources) != 3 {
			t.Errorf("%s: %d sources", id, len(answer.Sources))
		}
		var got []string
		for _, list := range [][]located{answer.Warnings, answer.Targets, answer.Secrets, answer.Args} {
			for _, l := range list {
				got = append(got, fmt.Sprintf("%d:%d", l.Location.SourceIndex, l.Location.Ranges[0].Start.Line))
			}
		}
		if d := cmp.Diff(places, got); d != "" {
			t.Errorf("%s: %s", id, d)
		}
	}
}
