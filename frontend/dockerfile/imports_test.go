package dockerfile

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/internal/exportrecord"
)

// labelled adds an image of two layers that has a label of exports to a bridge.
func labelled(t testing.TB, bridge *fakeBridge, name, label string) {
	t.Helper()
	config, err := json.Marshal(map[string]any{
		"os": "linux", "architecture": "amd64",
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{string(digest.FromString("1")), string(digest.FromString("2"))}},
		"config": map[string]any{"Labels": map[string]string{exportrecord.Label: label}},
	})
	if err != nil {
		t.Fatal(err)
	}
	bridge.images["localhost:5731/"+name] = fakeImage{
		Digest: digest.FromString(name), Configs: map[string]json.RawMessage{"linux/amd64": config, "linux/arm64": config},
	}
}

func importBridge(t testing.TB) *fakeBridge {
	t.Helper()
	bridge := newFakeBridge(t)
	labelled(t, bridge, "go", `{"e":[{"dst":"/usr/local/go","src":["/usr/local/go"],"t":"copy"},{"k":"PATH","t":"env","v":"/usr/local/go/bin:$PATH"}],"v":1}`)
	labelled(t, bridge, "diff", `{"e":[{"base":1,"t":"diff"}],"v":1}`)
	labelled(t, bridge, "whole", `{"e":[{"t":"diff"}],"v":1}`)
	labelled(t, bridge, "newer", `{"v":2}`)
	labelled(t, bridge, "foreign", `{"e":[{"t":"zip"}],"v":1}`)
	labelled(t, bridge, "toomany", `{"e":[{"base":3,"t":"diff"}],"v":1}`)
	labelled(t, bridge, "secret", `{"e":[{"argv":["x"],"mounts":["type=secret,id=a"],"sh":true,"t":"run"}],"v":1}`)
	return bridge
}

const exporter = "FROM localhost:5731/base AS x\nEXPORT /a\nEXPORT --as=more ENV A=1\nFROM localhost:5731/base AS y\n"

func TestImportErrors(t *testing.T) {
	for _, c := range []struct {
		text string
		line int
		want string
		opts map[string]string
	}{
		{"FROM scratch\nIMPORT later\nFROM scratch AS later\nFROM 0\n", 2, `IMPORT: stage "later" needs to be defined before current command: it begins on line 3`, nil},
		{"FROM scratch AS me\nIMPORT me\n", 2, "IMPORT cannot reference its own stage", nil},
		{"FROM scratch\nIMPORT 0\n", 2, "IMPORT cannot reference its own stage", nil},
		{"FROM scratch\nIMPORT 5\n", 2, "IMPORT: invalid stage index 5", nil},
		{exporter + "FROM scratch\nIMPORT y\n", 6, `IMPORT: "y" exports nothing (did you mean x?)`, nil},
		{"FROM scratch AS tooling\nEXPORT /a\nFROM scratch AS other\nFROM scratch\nIMPORT other\n", 5, `IMPORT: "other" exports nothing: stages that export something are tooling`, nil},
		{"FROM scratch\nIMPORT localhost:5731/base\n", 2, `IMPORT: "localhost:5731/base" exports nothing`, nil},
		{exporter + "FROM scratch\nIMPORT --from=x moer\n", 6, `IMPORT: "x" has no export group "moer" (has: default, more) (did you mean more?)`, nil},
		{"FROM scratch\nIMPORT dir\n", 2, `IMPORT: context "dir" is not an image and has no export record`, map[string]string{"context:dir": "local:dir"}},
		{"FROM scratch\nIMPORT dir\n", 2, `IMPORT: context "dir" is not an image and has no export record`, map[string]string{"context:dir": "https://github.com/o/r.git"}},
		{base + "EXPORT USER x\n", 2, "EXPORT: USER cannot be exported", nil},
		{base + "EXPORT IMPORT x\n", 2, "EXPORT: IMPORT cannot be exported", nil},
		{base + "EXPORT a b\n", 2, `EXPORT: destination must be absolute, not "b"`, nil},
		{base + "EXPORT EVN A=b\n", 2, "(did you mean ENV?)", nil},
		{base + "EXPORT bin\n", 2, "EXPORT: destination must be absolute", nil},
		{base + "ARG D=rel\nEXPORT /a $D\n", 3, `EXPORT: destination must be absolute, not "rel"`, nil},
		{base + "EXPORT /a/*\n", 2, `EXPORT: the pattern "/a/*" needs a destination`, nil},
		{base + "EXPORT\n", 2, "EXPORT requires a path", nil},
		{base + "EXPORT --form=x /a\n", 2, "unknown flag: --form", nil},
		{base + "EXPORT --from=x /a /b\n", 2, "unknown flag: --from", nil},
		{base + "EXPORT --chown=1 ENV A=b\n", 2, "EXPORT: --chown=1 stands before ENV", nil},
		{base + "EXPORT ENV --as=x A=b\n", 2, "EXPORT: --as stands before ENV", nil},
		{base + "EXPORT --as=Big /a\n", 2, `invalid export group "Big"`, nil},
		{base + "EXPORT <<X /a\nENV A=b\nX\n", 2, "EXPORT: a heredoc is for EXPORT RUN only", nil},
		{base + "EXPORT NONE /a\n", 2, "EXPORT NONE takes no arguments", nil},
		{base + "EXPORT DIFF /a\n", 2, "EXPORT DIFF takes no paths", nil},
		{base + "EXPORT ENV\n", 2, "EXPORT ENV requires a variable", nil},
		{base + "ENV FOOBAR=1\nEXPORT ENV FOOBAZ\n", 3, "EXPORT ENV: FOOBAZ is not set in this stage (did you mean FOOBAR?)", nil},
		{base + "ARG A=1\nEXPORT ENV A\n", 3, "EXPORT ENV: A is a build argument, not a variable: write EXPORT ENV A=$A", nil},
		{base + "EXPORT ENV A B C\n", 2, "EXPORT ENV: A is not set in this stage", nil},
		{base + "EXPORT ENV A=${X#$Y}\n", 2, "cannot be exported", nil},
		{base + "EXPORT RUN\n", 2, "RUN requires a command", nil},
		{base + "EXPORT RUN --mount=type=secret,id=x y\n", 2, `EXPORT RUN: mount type "secret" is not available to importers`, nil},
		{base + "EXPORT RUN --mount=type=ssh y\n", 2, `EXPORT RUN: mount type "ssh" is not available to importers`, nil},
		{base + "EXPORT RUN --mount=target=/x y\n", 2, `EXPORT RUN: mount type "bind" is not available to importers`, nil},
		{base + "EXPORT RUN --mount=type=cache,target=/x,from=y y\n", 2, `EXPORT RUN: what a mount is from ("y") is not available to importers`, nil},
		{base + "EXPORT RUN --mount=type=cahce,target=/x y\n", 2, "did you mean cache?", nil},
		{base + "ARG T=secret\nEXPORT RUN --mount=type=$T,id=x y\n", 3, `EXPORT RUN: mount type "secret" is not available to importers`, nil},
		{base + "EXPORT RUN --network=host y\n", 2, "EXPORT RUN: the network of the host is not available to importers", nil},
		{base + "EXPORT RUN --security=insecure y\n", 2, "EXPORT RUN: --security is not available to importers", nil},
		{base + "EXPORT LABEL " + exportrecord.Label + "=x\n", 2, "cannot be set: EXPORT writes it", nil},
		{base + "LABEL " + exportrecord.Label + "=x\n", 2, "cannot be set: EXPORT writes it", nil},
		{base, 0, "cannot be set: EXPORT writes it", map[string]string{"label:" + exportrecord.Label: "x"}},
		{base + strings.Repeat("EXPORT VOLUME /a\n", 513), 514, "EXPORT: 513 exports are too many, an image can have 512", nil},
		{base + "EXPORT ENV A=" + strings.Repeat("x", 60000) + "\nEXPORT ENV B=" + strings.Repeat("x", 6000) + "\n", 3, "the record of the exports has", nil},
		{"FROM scratch\nIMPORT localhost:5731/newer\n", 2, "image localhost:5731/newer has export record v2, this frontend understands v1", nil},
		{"FROM localhost:5731/newer\nEXPORT /a\n", 2, "image localhost:5731/newer has export record v2, this frontend understands v1; EXPORT NONE in front makes a new one", nil},
		{"FROM scratch\nIMPORT localhost:5731/foreign\n", 2, `the kind "zip" is not known: it takes a newer dbuild`, nil},
		{"FROM scratch\nIMPORT localhost:5731/toomany\n", 2, "leaves out 3 layers, but it has 2", nil},
		{"FROM localhost:5731/base\nIMPORT localhost:5731/secret\n", 2, `mount type "secret" is not available to importers`, nil},
		{"# dbuild=1\nFROM scratch AS x\nEXPORT /a\nFROM --reset=label x AS y\nFROM scratch\nIMPORT y\n", 6, `IMPORT: "y" exports nothing`, nil},
		{exporter + "FROM scratch\nIMPORT --env-prefix=1x x\n", 6, `invalid --env-prefix "1x"`, nil},
		{exporter + "FROM scratch\nIMPORT --only=envs x\n", 6, "--only=envs: want some of files, env, meta and run (did you mean env?)", nil},
		{exporter + "FROM scratch\nIMPORT --on-conflict=fail x\n", 6, "--on-conflict wants last or error", nil},
		{exporter + "FROM scratch\nIMPORT --platform=linux/arm64 x\n", 6, `IMPORT: --platform is for images, and "x" is a stage`, nil},
		{exporter + "FROM scratch\nIMPORT\n", 6, "IMPORT requires a stage, a context or an image", nil},
		{exporter + "FROM scratch\nIMPORT --form=x\n", 6, "unknown flag: --form (did you mean from?)", nil},
		{exporter + "FROM scratch\nIMPORT $X\n", 6, "IMPORT: variables are not expanded", nil},
		{exporter + "FROM scratch\nIMPORT x --link\n", 6, "the flag --link comes too late", nil},
		{exporter + "FROM scratch\nIMPROT x\n", 6, "unknown instruction: IMPROT (did you mean IMPORT?)", nil},
		{exporter + "FROM scratch\nENV A=2\nIMPORT --on-conflict=error x\n", 7, `IMPORT x: ENV A was "2" and becomes "1"`, nil},
		{"FROM scratch AS a\nEXPORT /x /lib\nFROM scratch AS b\nEXPORT /y /lib/y\nFROM scratch\nIMPORT --on-conflict=error a b\n", 6, `IMPORT b: /lib/y is the place of /lib from "a", too`, nil},
		{"# syntax=docker/dockerfile:1\nFROM scratch\nEXPORT /a\n", 3, "dockerfile parse error on line 3: unknown instruction: EXPORT: it is dbuild's", nil},
		{"# syntax=docker/dockerfile:1\nFROM scratch\nONBUILD IMPORT a\n", 3, "unknown instruction: IMPORT: it is dbuild's", nil},
		{"FROM scratch\nEXPORT /a\n", 2, "not in the syntax docker.io/docker/dockerfile", map[string]string{"build-arg:BUILDKIT_SYNTAX": "docker.io/docker/dockerfile"}},
	} {
		bridge := importBridge(t)
		bridge.files["Dockerfile"] = []byte(c.text)
		_, err := New().Solve(t.Context(), bridge, &frontend.Request{Opts: c.opts})
		if err == nil {
			t.Errorf("%s: no error, want %s", c.text, c.want)
			continue
		}
		line := 0
		var src *errdefs.SourceError
		if errors.As(err, &src) {
			line = int(src.Ranges[0].Start.Line)
		}
		if !strings.Contains(err.Error(), c.want) || line != c.line {
			t.Errorf("%.300s\nthe error on line %d is\n%v\nwant on line %d\n%s", c.text, line, err, c.line, c.want)
		}
	}
}

// An IMPORT makes the operations of the instructions that it stands for.
func TestImportIsWhatItStandsFor(t *testing.T) {
	const from = "FROM localhost:5731/base AS x\nARG V=1.2\nENV HERE=/h\nWORKDIR /w\n"
	for _, c := range []struct{ name, export, imports, written string }{
		{"path", "EXPORT /usr/local/go", "IMPORT x", "COPY --from=x /usr/local/go /usr/local/go"},
		{"relative", "EXPORT bin/* $HERE/", "IMPORT x", "COPY --from=x /w/bin/* /h/"},
		{"flags", "EXPORT COPY --chown=1:2 --chmod=u+x --exclude=*.md a b /to/", "IMPORT x", "COPY --from=x --chown=1:2 --chmod=u+x --exclude=*.md /w/a /w/b /to/"},
		{"flags without word", "EXPORT --chmod=755 --chown=1 /a /b", "IMPORT x", "COPY --from=x --chown=1 --chmod=755 /a /b"},
		{"json", `EXPORT ["/a b", "/c d"]`, "IMPORT x", `COPY --from=x ["/a b", "/c d"]`},
		{"lower", "export copy /a /b", "import x", "COPY --from=x /a /b"},
		{"index", "EXPORT /a", "IMPORT 0", "COPY --from=0 /a /a"},
		{"env", "EXPORT ENV A=$V B=${V}x PATH=/a:$PATH C=$IMP D='$V' E=\\$V\nEXPORT ENV HERE", "ENV IMP=imp\nIMPORT x", "ENV IMP=imp\nENV A=1.2 B=1.2x PATH=/a:$PATH C=$IMP D='$V' E=\\$V HERE=/h"},
		{"importer's ARGs are not seen", "EXPORT ENV A=$B-${B:-none}", "ARG B=arg\nIMPORT x", "ARG B=arg\nENV A=-none"},
		{"env shadows arg", "ENV V=env\nEXPORT ENV A=$V", "ENV V=mine\nIMPORT x", "ENV V=mine\nENV A=mine"},
		{"legacy", "EXPORT ENV path /foo\nEXPORT ENV T \"a b\"", "IMPORT x", "ENV path=/foo\nENV T=\"a b\""},
		{"one name is not set", "EXPORT ENV HERE there", "IMPORT x", "ENV HERE=there"},
		{"two names", "ENV OTHER=$HERE'$x'\nEXPORT ENV HERE OTHER", "IMPORT x", "ENV HERE=/h OTHER='/h$x'"},
		{"prefix", "EXPORT ENV A=/a:$A", "ENV A=1\nIMPORT --env-prefix=P_ x", "ENV A=1\nENV P_A=/a:$A"},
		{"meta", "EXPORT LABEL a=$V b=$N\nEXPORT EXPOSE 80 53/udp\nEXPORT VOLUME $HERE", "ENV N=n\nIMPORT x", "ENV N=n\nLABEL a=1.2 b=n\nEXPOSE 80 53/udp\nVOLUME /h"},
		{"groups", "EXPORT --as=one /a\nEXPORT --as=two /b\nEXPORT /c", "IMPORT --from=x two default", "COPY --from=x /b /b\nCOPY --from=x /c /c"},
		{"only files", "EXPORT /a\nEXPORT ENV A=1\nEXPORT RUN x\nEXPORT VOLUME /v", "IMPORT --only=files x", "COPY --from=x /a /a"},
		{"only env and meta", "EXPORT /a\nEXPORT ENV A=1\nEXPORT RUN x\nEXPORT VOLUME /v", "IMPORT --only=env,meta x", "ENV A=1\nVOLUME /v"},
		{"run", "EXPORT RUN --mount=type=cache,target=$HERE --network=none echo $V $W", "ENV W=1\nUSER u\nIMPORT x", "ENV W=1\nUSER u\nRUN --mount=type=cache,target=/h --network=none echo 1.2 $W"},
		{"exec form", `EXPORT RUN ["a", "$V"]`, "IMPORT x", `RUN ["a", "1.2"]`},
		{"heredoc", "EXPORT RUN <<A cat <<-'B'\n$V EXPORT RUN <<C\nA\n\t$V\n\tB", "IMPORT x", "RUN <<A cat <<-'B'\n1.2 EXPORT RUN <<C\nA\n\t$V\n\tB"},
		{"script", "EXPORT RUN <<A\n#!/usr/bin/perl\nprint $V\nA", "IMPORT x", "RUN <<EOF\n#!/usr/bin/perl\nprint $V\nEOF"},
		{"no run", "EXPORT RUN x\nEXPORT /a", "IMPORT --no-run x", "COPY --from=x /a /a"},
		{"none", "EXPORT /a\nEXPORT NONE\nEXPORT /b", "IMPORT x", "COPY --from=x /b /b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			short := convertOne(t, importBridge(t), from+c.export+"\nFROM localhost:5731/base\n"+c.imports+"\nRUN end\n")
			long := convertOne(t, importBridge(t), from+"FROM localhost:5731/base\n"+c.written+"\nRUN end\n")
			if d := cmp.Diff(opsText(t, long.Definition), opsText(t, short.Definition)); d != "" {
				t.Errorf("operations (-written +imported):\n%s", d)
			}
			if d := cmp.Diff(long.Image.Config, short.Image.Config); d != "" {
				t.Errorf("config (-written +imported):\n%s", d)
			}
		})
	}
}

func opsText(t *testing.T, def *pb.Definition) []string {
	t.Helper()
	var out []string
	for _, op := range opsOf(t, def) {
		out = append(out, compactJSON(t, op))
	}
	return out
}

func TestImportOfImages(t *testing.T) {
	for _, text := range []string{
		"FROM localhost:5731/base\nIMPORT localhost:5731/go\n",
		"FROM localhost:5731/go AS go\nFROM localhost:5731/base\nIMPORT go\n",
	} {
		bridge := importBridge(t)
		p := convertOne(t, bridge, text)
		if !slices.ContainsFunc(p.Image.Config.Env, func(kv string) bool { return strings.HasPrefix(kv, "PATH=/usr/local/go/bin:/") }) {
			t.Errorf("%s: variables %v", text, p.Image.Config.Env)
		}
		pinned := "docker-image://localhost:5731/go:latest@" + string(digest.FromString("go"))
		if !slices.ContainsFunc(opsOf(t, p.Definition), func(op *pb.Op) bool { return op.GetSource().GetIdentifier() == pinned }) {
			t.Errorf("%s: the image is not pinned in %v", text, opsText(t, p.Definition))
		}
		if label, ok := p.Image.Config.Labels[exportrecord.Label]; ok {
			t.Errorf("%s: what is imported is exported, too: %s", text, label)
		}
	}
	// A base's exports are those of the image, and more can be added.
	p := convertOne(t, importBridge(t), "FROM localhost:5731/go\nEXPORT --as=x VOLUME /v\nEXPORT DIFF\n")
	want := `{"e":[{"dst":"/usr/local/go","src":["/usr/local/go"],"t":"copy"},{"k":"PATH","t":"env","v":"/usr/local/go/bin:$PATH"},{"g":"x","t":"volume","v":"/v"},{"base":2,"t":"diff"}],"v":1}`
	if got := p.Image.Config.Labels[exportrecord.Label]; got != want {
		t.Errorf("record %s", got)
	}
	if p := convertOne(t, importBridge(t), "FROM localhost:5731/newer\nRUN x\n"); p.Image.Config.Labels[exportrecord.Label] != `{"v":2}` {
		t.Error("the record of a newer version did not pass")
	}
	if p := convertOne(t, importBridge(t), "FROM localhost:5731/go\nEXPORT NONE\n"); p.Image.Config.Labels[exportrecord.Label] != "" {
		t.Error("EXPORT NONE left the label")
	}
}

func TestImportDiff(t *testing.T) {
	kinds := func(text string) (out []string) {
		p := convertOne(t, importBridge(t), text)
		for _, op := range opsOf(t, p.Definition) {
			switch {
			case op.GetSource() != nil:
				out = append(out, strings.TrimSuffix("source "+op.GetSource().Attrs[pb.AttrImageLayerLimit], " "))
			case op.GetDiff() != nil:
				out = append(out, "diff")
			case op.GetMerge() != nil:
				out = append(out, "merge")
			case op.GetExec() != nil:
				out = append(out, "exec")
			case op.GetFile() != nil:
				out = append(out, "file")
			}
		}
		slices.Sort(out)
		return out
	}
	for _, c := range []struct {
		text string
		want []string
	}{
		{base + "IMPORT localhost:5731/diff\n", []string{"diff", "merge", "source", "source", "source 1"}},
		{base + "IMPORT localhost:5731/whole\n", []string{"merge", "source", "source"}},
		{"FROM localhost:5731/base AS x\nRUN a\nEXPORT DIFF\nFROM localhost:5731/base\nIMPORT x\n", []string{"diff", "exec", "merge", "source"}},
		{"FROM localhost:5731/base AS x\nRUN a\nEXPORT DIFF --exclude=tmp\nFROM localhost:5731/base\nIMPORT x\n", []string{"diff", "exec", "file", "merge", "source"}},
		{"FROM localhost:5731/base AS x\nEXPORT /a\nEXPORT /b\nEXPORT RUN r\nEXPORT /c\nFROM localhost:5731/base\nIMPORT --link x\n", []string{"exec", "file", "file", "file", "merge", "merge", "source"}},
		// Nothing of the exporter is needed for a variable.
		{"FROM localhost:5731/base AS x\nRUN a\nEXPORT ENV A=1\nFROM scratch\nIMPORT x\n", nil},
	} {
		if d := cmp.Diff(c.want, kinds(c.text)); d != "" {
			t.Errorf("%s:\n%s", c.text, d)
		}
	}
}

func TestImportHistory(t *testing.T) {
	p := convertOne(t, importBridge(t), "FROM scratch AS x\nARG V=1\nEXPORT ENV A=$V\nEXPORT --as=g /a /b\nFROM scratch\nIMPORT x\nEXPORT LABEL a=b\n")
	var got []string
	for _, h := range p.Image.History {
		line := h.CreatedBy
		if h.EmptyLayer {
			line += " (empty)"
		}
		got = append(got, line)
	}
	if d := cmp.Diff([]string{"IMPORT x (empty)", "IMPORT x: COPY /a /b # buildkit", "EXPORT LABEL a=b (empty)"}, got); d != "" {
		t.Error(d)
	}
}

func TestImportPlatformsAndNames(t *testing.T) {
	bridge := importBridge(t)
	p := convertOne(t, bridge, "FROM --platform=linux/arm64 localhost:5731/base AS app\nIMPORT localhost:5731/go\n", "platform=linux/amd64")
	for d, m := range p.Definition.Metadata {
		name := m.Description["llb.customname"]
		if strings.Contains(name, "IMPORT") && name != "[app 2/2] IMPORT localhost:5731/go: /usr/local/go -> /usr/local/go" {
			t.Errorf("%s is called %s", d, name)
		}
	}
	for _, op := range opsOf(t, p.Definition) {
		if strings.Contains(op.GetSource().GetIdentifier(), "/go:") && op.Platform.Architecture != "arm64" {
			t.Errorf("imported for %v", op.Platform)
		}
	}
	p = convertOne(t, bridge, base+"IMPORT --platform=$BUILDPLATFORM localhost:5731/go\n", "platform=linux/arm64")
	for _, op := range opsOf(t, p.Definition) {
		if strings.Contains(op.GetSource().GetIdentifier(), "/go:") && op.Platform.Architecture != "amd64" {
			t.Errorf("imported for %v", op.Platform)
		}
	}
}

func TestImportConflictIsReported(t *testing.T) {
	for _, c := range []struct {
		text string
		want int
	}{
		{"FROM scratch AS x\nEXPORT ENV A=1\nEXPORT LABEL l=1\nFROM scratch\nENV A=2\nLABEL l=2\nIMPORT x\n", 2},
		{"FROM scratch AS x\nEXPORT ENV A=1:$A PATH=/x:${PATH:-}\nFROM scratch\nENV A=2\nIMPORT x\n", 0},
		{"FROM scratch AS x\nEXPORT ENV A=1\nFROM scratch\nENV A=1\nIMPORT x\n", 0},
		{"FROM scratch AS x\nEXPORT /a /usr/bin/\nFROM scratch AS y\nEXPORT /b /usr/bin/\nFROM scratch\nIMPORT x y\n", 0},
		{"FROM scratch AS x\nEXPORT /a /usr/bin/\nFROM scratch AS y\nEXPORT /b/a /usr/bin/\nFROM scratch\nIMPORT x y\n", 1},
		{"FROM scratch AS x\nEXPORT ENV A=1\nFROM scratch\nENV A=2\n# check=skip=ImportConflict\nIMPORT x\n", 0},
	} {
		bridge := importBridge(t)
		convertOne(t, bridge, c.text)
		n := 0
		for _, w := range bridge.warnings {
			if strings.HasPrefix(w.Short, "ImportConflict: ") {
				n++
			}
		}
		if n != c.want {
			t.Errorf("%s: %d conflicts, want %d: %v", c.text, n, c.want, bridge.warnings)
		}
	}
}
