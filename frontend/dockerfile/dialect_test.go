package dockerfile

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	spec "github.com/moby/docker-image-spec/specs-go/v1"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/llb"
)

const ours = "# dbuild=1\n" + base

// badDialect lists Dockerfiles that misuse the extensions, or use them without asking.
var badDialect = []struct {
	name, text string
	opts       map[string]string
	line       int
	want       string
}{
	{name: "version", text: "# dbuild=2\n" + base, line: 1, want: `unknown version "2" of the dbuild language: there is only 1`},
	{name: "twice", text: "# dbuild=1\n# dbuild=1\n" + base, line: 2, want: "only one dbuild parser directive can be used"},
	{name: "before escape", text: "# dbuild=1\n# escape=`\n" + base, line: 2, want: "# escape must stand before # dbuild=1"},
	{name: "too late", text: "# a comment\n# dbuild=1\n" + base + "COPY --if-exists a /\n", line: 4, want: `"# dbuild=1" at the head of the Dockerfile turns on`},
	{name: "copy plain", text: base + "COPY --if-exists a /\n", line: 2, want: `unknown flag: --if-exists: it is one of dbuild's extensions, which "# dbuild=1"`},
	{name: "copy typo", text: base + "COPY --if-exist a /\n", line: 2, want: "unknown flag: --if-exist"},
	{name: "copy typo ours", text: ours + "COPY --if-exist a /\n", line: 3, want: "did you mean if-exists?"},
	{name: "add plain", text: base + "ADD --when=1 a /\n", line: 2, want: "unknown flag: --when"},
	{name: "from plain", text: "FROM --reset scratch\n", line: 1, want: "unknown flag: --reset: it is one of dbuild's"},
	{name: "run plain", text: base + "RUN --timeout=1s x\n", line: 2, want: "unknown flag: --timeout: it is one of dbuild's"},
	{name: "include plain", text: base + "INCLUDE x\n", line: 2, want: `unknown instruction: INCLUDE: it is one of dbuild's extensions, which "# dbuild=1"`},
	{name: "copy from plain", text: base + "COPY --from=$X a b\n", line: 2, want: `"# dbuild=1" at the head of the Dockerfile turns it on`},
	{name: "mount from plain", text: base + "RUN --mount=from=$X,target=/x y\n", line: 2, want: `"# dbuild=1" at the head of the Dockerfile turns it on`},
	{name: "trigger", text: "# dbuild=1\nFROM scratch AS a\nONBUILD COPY --if-exists x /\nFROM a\n", line: 4, want: "an instruction whose text goes into an image cannot have"},

	{name: "lonely mark", text: ours + "COPY ? /\n", line: 3, want: `a source that is only "?" names nothing`},
	{name: "fetched", text: ours + "ADD --if-exists https://x/y /\n", line: 3, want: "only files of a build context, a stage or an image can be optional"},
	{name: "fetched git", text: ours + "ADD https://x/y.git#main /a\nADD git@x:y.git? /\n", line: 4, want: "only files of a build context"},
	{name: "when", text: ours + "COPY --when= a /\n", line: 3, want: "--when needs a value"},

	{name: "from unset", text: "# dbuild=1\nARG STAGE=x\nFROM scratch AS x\nFROM scratch\nCOPY --from=$STAG a /\n", line: 5, want: "--from=$STAG: no ARG or ENV above this line, in this stage or before the first FROM, sets $STAG (did you mean STAGE?)"},
	{name: "from empty", text: ours + "ARG X=\nCOPY --from=$X a /\n", line: 4, want: "--from=$X comes to nothing"},
	{name: "from base", text: ours + "ENV X=$UNKNOWN\nCOPY --from=$X a /\n", line: 4, want: "what $X holds depends on the base image"},
	{name: "from itself", text: "# dbuild=1\nARG X=me\nFROM scratch AS me\nCOPY --from=$X a /\n", line: 4, want: "circular dependency detected on stage: me"},
	{name: "from later", text: "# dbuild=1\nARG X=b\nFROM scratch AS a\nCOPY --from=$X a /\nFROM scratch AS b\nFROM a\n", line: 4, want: `cannot copy from stage "b"`},
	{name: "mount unset", text: ours + "RUN --mount=from=$X,target=/x y\n", line: 3, want: "from=$X: no ARG or ENV above this line"},

	{name: "reset word", text: "# dbuild=1\nFROM --reset=volumes scratch\n", line: 2, want: `unknown part "volumes" of an image's config (did you mean volume?); the parts are env,`},
	{name: "reset name", text: "# dbuild=1\nFROM --reset=user:x scratch\n", line: 2, want: "only env and label have names; write --reset=user"},
	{name: "reset no name", text: "# dbuild=1\nFROM --reset=env: scratch\n", line: 2, want: "a name is missing behind the colon"},
	{name: "reset pattern", text: "# dbuild=1\nFROM --reset=label:[ scratch\n", line: 2, want: `"[" is not a valid pattern`},

	{name: "timeout", text: ours + "RUN --timeout=10 x\n", line: 3, want: `--timeout: invalid duration "10", want one like 90s`},
	{name: "timeout zero", text: ours + "RUN --timeout=0s x\n", line: 3, want: "must be at least"},
	{name: "retry", text: ours + "RUN --retry=-1 x\n", line: 3, want: `--retry: invalid number "-1", want one from 0 to 100`},
	{name: "retry on", text: ours + "RUN --retry=1 --retry-on=exits x\n", line: 3, want: `unknown reason "exits", want timeout, exit or exit:CODE`},
	{name: "retry code", text: ours + "RUN --retry=1 --retry-on=exit:0 x\n", line: 3, want: `"0" is not an exit code from 1 to 255`},
	{name: "retry on alone", text: ours + "RUN --retry-on=exit x\n", line: 3, want: "--retry, how often, is missing"},
	{name: "retry on timeout", text: ours + "RUN --retry=1 --retry-on=timeout x\n", line: 3, want: "needs a timeout"},
}

func TestBadDialect(t *testing.T) {
	for _, c := range badDialect {
		t.Run(c.name, func(t *testing.T) {
			bridge := newFakeBridge(t)
			bridge.files["Dockerfile"] = []byte(c.text)
			_, err := New().Solve(t.Context(), bridge, &frontend.Request{Opts: c.opts})
			if err == nil {
				t.Fatal("no error")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("the error is\n%v\nwithout\n%s", err, c.want)
			}
			line := 0
			var src *errdefs.SourceError
			if errors.As(err, &src) {
				line = int(src.Ranges[0].Start.Line)
			}
			if line != c.line {
				t.Errorf("the error %v is about line %d, not %d", err, line, c.line)
			}
		})
	}
}

// copies are the copy actions of a definition.
func copies(t *testing.T, p *Platform) []*pb.FileActionCopy {
	t.Helper()
	var out []*pb.FileActionCopy
	for _, op := range opsOf(t, p.Definition) {
		for _, a := range op.GetFile().GetActions() {
			if c := a.GetCopy(); c != nil {
				out = append(out, c)
			}
		}
	}
	return out
}

// TestDialectIsAsked checks what turns the extensions on: with them "a?" is the file a that
// may be missing, without them a wildcard.
func TestDialectIsAsked(t *testing.T) {
	const rest = base + "COPY a? /d/\n"
	for _, c := range []struct {
		name, head string
		opts       []string
		on         bool
	}{
		{name: "plain", head: ""},
		{name: "directive", head: "# dbuild=1\n", on: true},
		{name: "spaces and case", head: "#  DBuild = 1 \n", on: true},
		{name: "byte order mark", head: "\uFEFF# dbuild=1\n", on: true},
		{name: "shebang", head: "#!/bin/dbuild\n# dbuild=1\n", on: true},
		{name: "carriage returns", head: "# dbuild=1\r\n", on: true},
		{name: "after others", head: "# check=skip=all\n# escape=`\n# dbuild=1\n", on: true},
		{name: "after a comment", head: "# hello\n# dbuild=1\n"},
		{name: "after a blank line", head: "\n# dbuild=1\n"},
		{name: "syntax", head: "# syntax=example.com/x/dbuild-frontend:2@sha256:" + strings.Repeat("a", 64) + "\n", opts: []string{"cmdline=x"}, on: true},
		{name: "syntax of others", head: "# syntax=dbuild.example.com/other:dbuild\n", opts: []string{"cmdline=x"}},
		{name: "docker's", head: "# syntax=docker/dockerfile:1\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := convertOne(t, newFakeBridge(t), c.head+rest, c.opts...)
			want := "/a?"
			if c.on {
				want = "/[a]"
			}
			if got := copies(t, p)[0].Src; got != want {
				t.Errorf("the source is %s, not %s", got, want)
			}
		})
	}
}

func TestOptionalSources(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
		follow     string
		history    string
	}{
		{"one", "COPY a b? /d/", []string{"/a", "/[b]"}, `["a","b"]`, "COPY a b? /d/ # buildkit"},
		{"all", "COPY --if-exists a b /d/", []string{"/[a]", "/[b]"}, `["a","b"]`, "COPY a? b? /d/ # buildkit"},
		{"off", "COPY --if-exists=false a b /d/", []string{"/a", "/b"}, `["a","b"]`, "COPY a b /d/ # buildkit"},
		{"in a directory", "COPY x/y? /d/", []string{"/[x]/y"}, `["x/y"]`, ""},
		{"wildcard", "COPY a*? /d/", []string{"/a*"}, `["a*"]`, ""},
		{"escaped", `COPY a\? /d/`, []string{"/a?"}, `["a?"]`, ""},
		{"class", "COPY a[?] /d/", []string{"/a[?]"}, `["a\\?"]`, ""},
		{"quoted", `COPY "a?" /d/`, []string{"/a?"}, `["a?"]`, ""},
		{"json", `COPY ["a b?", "/d/"]`, []string{"/[a] b"}, `["a b"]`, ""},
		{"from a variable", "ARG F=a?\nCOPY $F /d/", []string{"/a?"}, `["a?"]`, ""},
		{"behind a variable", "ARG F=a\nCOPY ${F}? /d/", []string{"/[a]"}, `["a"]`, ""},
		{"special", "COPY --if-exists ^-x /d/", []string{`/[\^]\-x`}, `["^-x"]`, ""},
		{"unicode", "COPY éa? /d/", []string{"/[é]a"}, `["éa"]`, ""},
		{"the context", "COPY .? /d/", []string{"/"}, "", ""},
		{"add", "ADD a.tar? /d/", []string{"/[a].tar"}, `["a.tar"]`, ""},
		{"parents", "COPY --parents --if-exists a/b /d/", []string{"/"}, `["a/b"]`, ""},
		{"url", "ADD https://x/y? /d/", []string{"/y"}, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := convertOne(t, newFakeBridge(t), ours+c.text)
			var got []string
			for _, cp := range copies(t, p) {
				got = append(got, cp.Src)
				if !cp.AllowWildcard && strings.Contains(cp.Src, "[") || len(cp.RequiredPaths) > 0 {
					t.Errorf("%v must be there", cp)
				}
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(d)
			}
			follow := ""
			for _, op := range opsOf(t, p.Definition) {
				if src := op.GetSource(); src != nil && src.Identifier == "local://context" {
					follow = src.Attrs[pb.AttrFollowPaths]
				}
			}
			if follow != c.follow {
				t.Errorf("of the context %s is asked for, not %s", follow, c.follow)
			}
			if last := p.Image.History[len(p.Image.History)-1].CreatedBy; c.history != "" && last != c.history {
				t.Errorf("the history is %s", last)
			}
		})
	}
}

func TestWhen(t *testing.T) {
	for value, want := range map[string]int{"": 0, "0": 0, "false": 0, "No": 0, "OFF": 0, "1": 1, "true": 1, "x": 1} {
		p := convertOne(t, newFakeBridge(t), ours+"ARG DEBUG\nCOPY --when=$DEBUG a /\nADD --when=${DEBUG} b /\nCOPY z /\n", "build-arg:DEBUG="+value)
		if got := len(copies(t, p)); got != 2*want+1 {
			t.Errorf("DEBUG=%s: %d copies", value, got)
		}
		var names []string
		for _, m := range p.Definition.Metadata {
			if name := m.Description["llb.customname"]; strings.Contains(name, " z /") {
				names = append(names, name)
			}
		}
		if d := cmp.Diff([]string{"[4/4] COPY z /"}, names); d != "" {
			t.Error(d)
		}
	}
}

// TestFromVariables finds the stage that a file comes from: it is named like its content.
func TestFromVariables(t *testing.T) {
	stages := "FROM scratch AS one\nCOPY one /\nFROM scratch AS two\nCOPY two /\n"
	for _, c := range []struct {
		name, text string
		opts       []string
		want       string
	}{
		{"global", "ARG S=one\n" + stages + "FROM scratch\nCOPY --from=$S x /", nil, "one"},
		{"build arg", "ARG S=one\n" + stages + "FROM scratch\nCOPY --from=$S x /", []string{"build-arg:S=two"}, "two"},
		{"default", "ARG S\n" + stages + "FROM scratch\nCOPY --from=${S:-two} x /", nil, "two"},
		{"part", "ARG S=o\n" + stages + "FROM scratch\nCOPY --from=${S}ne x /", nil, "one"},
		{"index", "ARG S=1\n" + stages + "FROM scratch\nCOPY --from=$S x /", nil, "two"},
		{"local", "ARG S=one\n" + stages + "FROM scratch\nARG S=two\nCOPY --from=$S x /", nil, "two"},
		{"local of global", "ARG G=two\n" + stages + "FROM scratch\nARG G\nARG S=$G\nCOPY --from=$S x /", nil, "two"},
		{"above only", "ARG S=one\n" + stages + "FROM scratch\nCOPY --from=$S x /\nARG S=two", nil, "one"},
		{"env", stages + "FROM scratch\nARG S=one\nENV S=two\nCOPY --from=$S x /", nil, "two"},
		{"inherited", stages + "FROM scratch AS mid\nARG S=two\nFROM mid\nCOPY --from=$S x /", nil, "two"},
		{"automatic", "FROM scratch AS amd64\nCOPY one /\nFROM scratch\nCOPY --from=$TARGETARCH x /", nil, "one"},
		{"mount", "ARG S=two\n" + stages + "FROM localhost:5731/base\nRUN --mount=from=$S,target=/x y", nil, "two"},
		{"mount and more", "ARG S=two\n" + stages + "FROM localhost:5731/base\nARG T=/x\nRUN --mount=from=$S,target=$T y", nil, "two"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := convertOne(t, newFakeBridge(t), "# dbuild=1\n"+c.text, c.opts...)
			var got []string
			for _, cp := range copies(t, p) {
				if src := strings.Trim(cp.Src, "/"); src != "x" {
					got = append(got, src)
				}
			}
			if d := cmp.Diff([]string{c.want}, got); d != "" {
				t.Errorf("what is built: %s", d)
			}
		})
	}
}

// A stage that nobody needs may name what nobody sets.
func TestFromVariablesOfUnneeded(t *testing.T) {
	convertOne(t, newFakeBridge(t), "# dbuild=1\nFROM scratch AS no\nCOPY --from=$NOPE x /\nFROM scratch\nCOPY a /\n")
}

func TestReset(t *testing.T) {
	config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["sha256:` + strings.Repeat("1", 64) + `"]},"config":{
		"Env":["PATH=/odd","A=1","B=2"],"Labels":{"x.a":"1","x.b":"2","y":"3"},"Volumes":{"/v":{}},"ExposedPorts":{"80/tcp":{}},
		"Entrypoint":["/e"],"Cmd":["c"],"ArgsEscaped":true,"User":"me","WorkingDir":"/w","Healthcheck":{"Test":["NONE"]},"OnBuild":["LABEL on=build"],
		"StopSignal":"SIGINT","Shell":["/sh"]}}`
	for _, c := range []struct {
		flag string
		want func(*spec.DockerOCIImageConfig)
	}{
		{"--reset=env", func(c *spec.DockerOCIImageConfig) { c.Env = []string{"PATH=" + defaultPath} }},
		{"--reset=env:A", func(c *spec.DockerOCIImageConfig) { c.Env = []string{"PATH=/odd", "B=2"} }},
		{"--reset=env:PATH", func(c *spec.DockerOCIImageConfig) { c.Env = []string{"A=1", "B=2", "PATH=" + defaultPath} }},
		{"--reset=label", func(c *spec.DockerOCIImageConfig) { c.Labels = map[string]string{"on": "build"} }},
		{"--reset=label:x.*", func(c *spec.DockerOCIImageConfig) { c.Labels = map[string]string{"y": "3", "on": "build"} }},
		{"--reset=volume,expose", func(c *spec.DockerOCIImageConfig) { c.Volumes, c.ExposedPorts = nil, nil }},
		{"--reset=entrypoint", func(c *spec.DockerOCIImageConfig) { c.Entrypoint = nil }},
		{"--reset=cmd", func(c *spec.DockerOCIImageConfig) { c.Cmd, c.ArgsEscaped = nil, false }}, //nolint:staticcheck // see resetConfig
		{"--reset=user,workdir", func(c *spec.DockerOCIImageConfig) { c.User, c.WorkingDir = "", "/" }},
		{"--reset=healthcheck,stopsignal,shell", func(c *spec.DockerOCIImageConfig) { c.Healthcheck, c.StopSignal, c.Shell = nil, "", nil }},
		{"--reset=onbuild", func(c *spec.DockerOCIImageConfig) { delete(c.Labels, "on") }},
		{"--reset", func(c *spec.DockerOCIImageConfig) {
			*c = spec.DockerOCIImageConfig{}
			c.Env, c.WorkingDir = []string{"PATH=" + defaultPath}, "/"
		}},
	} {
		t.Run(c.flag, func(t *testing.T) {
			bridge := newFakeBridge(t)
			bridge.images["full"] = fakeImage{Configs: map[string]json.RawMessage{"linux/amd64": json.RawMessage(config)}}
			img, err := parseConfig("full", []byte(config))
			if err != nil {
				t.Fatal(err)
			}
			img.Config.OnBuild = nil
			img.Config.Labels["on"] = "build"
			c.want(&img.Config)
			text := "# dbuild=1\nFROM " + c.flag + " full\n"
			if strings.HasPrefix(c.flag, "--reset=user") || c.flag == "--reset" {
				text += "RUN x\n"
			}
			p := convertOne(t, bridge, text)
			if len(img.Config.Labels) == 0 {
				img.Config.Labels = p.Image.Config.Labels // empty or none is the same
			}
			if d := cmp.Diff(img.Config, p.Image.Config); d != "" || len(p.Image.Config.Labels) != len(img.Config.Labels) {
				t.Errorf("(-want +got)\n%s", d)
			}
			for _, op := range opsOf(t, p.Definition) {
				if e := op.GetExec(); e != nil && (e.Meta.User != "" || e.Meta.Cwd != "/") {
					t.Errorf("the command runs as %q in %s", e.Meta.User, e.Meta.Cwd)
				}
			}
		})
	}
}

// Resetting the config of a stage keeps the ARGs that it declared.
func TestResetOfStage(t *testing.T) {
	p := convertOne(t, newFakeBridge(t), "# dbuild=1\nFROM localhost:5731/base AS a\nARG X=1\nENV X=2 Y=3\nFROM --reset=env a\nRUN x\n")
	if d := cmp.Diff([]string{"X=1"}, envOfRun(t, p)); d != "" {
		t.Error(d)
	}
	if slices.ContainsFunc(p.Image.Config.Env, func(kv string) bool { return !strings.HasPrefix(kv, "PATH=") }) {
		t.Errorf("the image has %v", p.Image.Config.Env)
	}
}

// Limits are in no digest: a builder that does not know them finds and makes the same.
func TestLimitsAreNotKeyed(t *testing.T) {
	plain := convertOne(t, newFakeBridge(t), base+"RUN x\n")
	limited := convertOne(t, newFakeBridge(t), ours+"RUN --timeout=10m --retry=2 --retry-on=exit:100,timeout x\n")
	if d := cmp.Diff(plain.Definition.Def, limited.Definition.Def); d != "" {
		t.Errorf("the operations differ: %s", d)
	}
	run := limited.Definition.Metadata[string(digest.FromBytes(limited.Definition.Def[len(limited.Definition.Def)-2]))]
	got, err := llb.LimitsOf(run.GetDescription())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(llb.RunLimits{Timeout: 10 * time.Minute, Retry: 2, RetryOn: []string{"exit:100", "timeout"}}, got); d != "" {
		t.Error(d)
	}
}

// A foreignBridge leads to a builder that is not ours.
type foreignBridge struct{ *fakeBridge }

func (foreignBridge) EnforcesLimits() bool { return false }

func TestLimitsNotEnforced(t *testing.T) {
	for text, want := range map[string]int{"RUN --timeout=1s x\n": 1, "RUN --retry=1 x\n": 1, "RUN x\n": 0, "# check=skip=RunLimitsNotEnforced\nRUN --retry=1 x\n": 0} {
		b := foreignBridge{newFakeBridge(t)}
		b.files["Dockerfile"] = []byte(ours + text)
		if _, err := Convert(t.Context(), b, &frontend.Request{}); err != nil {
			t.Fatal(err)
		}
		if len(b.warnings) != want {
			t.Errorf("%s: %v", text, b.warnings)
		}
	}
}

// For how long a result is good is part of the operation, and nothing that the image has.
func TestFreshness(t *testing.T) {
	p := convertOne(t, newFakeBridge(t), ours+"RUN --cache-ttl=24h x\nRUN y\n")
	var periods []string
	for _, op := range opsOf(t, p.Definition) {
		for _, kv := range op.GetExec().GetMeta().GetEnv() {
			if name, period, _ := strings.Cut(kv, "="); llb.IsPeriod(name) {
				periods = append(periods, period)
			}
		}
	}
	if len(periods) != 1 || !strings.HasPrefix(periods[0], "24h0m0s from ") || !strings.HasSuffix(periods[0], "T00:00:00Z") {
		t.Errorf("the periods are %q", periods)
	}
	for _, kv := range p.Image.Config.Env {
		if name, _, _ := strings.Cut(kv, "="); llb.IsPeriod(name) {
			t.Errorf("the image has %s", kv)
		}
	}
	p = convertOne(t, newFakeBridge(t), ours+"RUN --no-cache x\nRUN y\n")
	always := 0
	for _, m := range p.Definition.Metadata {
		if m.IgnoreCache {
			always++
		}
	}
	if always != 1 {
		t.Errorf("%d operations run in every build, want 1", always)
	}
}
