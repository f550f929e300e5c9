package dockerfile

import (
	"errors"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/errdefs"

	"github.com/dbuild/dbuild/frontend"
)

const base = "FROM localhost:5731/base\n"

// bad lists Dockerfiles that cannot be built: the line to blame, what must be said, and
// whether an image is asked for before that.
var bad = []struct {
	name, text string
	opts       map[string]string
	line       int // 0 for none
	want       string
	late       bool
}{
	{name: "empty", text: "", want: "the Dockerfile cannot be empty"},
	{name: "comments only", text: "# nothing\n", line: 1, want: "no instructions"},
	{name: "unknown", text: base + "COPPY a b\n", line: 2, want: "dockerfile parse error on line 2: unknown instruction: COPPY (did you mean COPY?)"},
	{name: "unknown lower", text: base + "coppy a b\n", line: 2, want: "unknown instruction: coppy (did you mean copy?)"},
	{name: "export far", text: base + "EXPORT x\n", line: 2, want: "EXPORT: destination must be absolute"},
	{name: "unknown far", text: base + "XYZZY x\n", line: 2, want: "unknown instruction: XYZZY"},
	{name: "no stage", text: "ARG A=1\n", line: 1, want: "dockerfile contains no stages to build"},
	{name: "before from", text: "ARG A\nRUN x\n" + base, line: 2, want: "RUN must come after FROM"},
	{name: "directive twice", text: "# escape=`\n# escape=`\n" + base, line: 2, want: "a second escape directive: there is one on line 1"},
	{name: "escape", text: "# escape=x\n" + base, line: 1, want: "the escape character can be"},
	{name: "from args", text: "FROM a b\n", line: 1, want: "FROM requires either one or three arguments"},
	{name: "stage name", text: "FROM scratch AS 1x\n", line: 1, want: `invalid name for build stage: "1x"`},
	{name: "from flag", text: "FROM --platfrom=x scratch\n", line: 1, want: "unknown flag: --platfrom (did you mean platform?)"},
	{name: "from blank", text: "ARG X\nFROM $X\n", line: 2, want: "base name ($X) should not be blank"},
	{name: "from required", text: "FROM ${X:?needed}\n", line: 1, want: "needed"},
	{name: "from reference", text: "FROM Upper/Case\n", line: 1, want: `invalid image reference "Upper/Case"`},
	{name: "from unknown", text: "FROM debain\n", line: 1, want: "did you mean debian?", late: true},
	{name: "from stage typo", text: "FROM scratch AS builder\nFROM buidler\n", opts: nil, line: 2, want: "did you mean builder?", late: true},
	{name: "from context typo", text: "FROM scratch\nCOPY --from=asets a b\n", opts: map[string]string{"context:assets": "local:assets"}, line: 2, want: "did you mean assets?", late: true},
	{name: "platform", text: "FROM --platform=$X scratch\n", line: 1, want: "empty platform value from expression $X"},
	{name: "platform typo", text: "FROM --platform=$BULIDPLATFORM scratch\n", line: 1, want: "did you mean BUILDPLATFORM?"},
	{name: "target", text: "FROM scratch AS one\n", opts: map[string]string{"target": "onne"}, want: `target stage "onne" could not be found (did you mean one?)`},
	{name: "env none", text: base + "ENV\n", line: 2, want: "ENV"},
	{name: "env blank", text: base + "ENV =x\n", line: 2, want: "ENV names can not be blank"},
	{name: "env quote", text: base + "ENV A=\"x\n", line: 2, want: "unexpected end of statement", late: true},
	{name: "label blank", text: base + "LABEL =x\n", line: 2, want: "LABEL names can not be blank"},
	{name: "arg blank", text: base + "ARG =x\n", line: 2, want: "ARG names can not be blank"},
	{name: "copy one", text: base + "COPY a\n", line: 2, want: "COPY requires at least two arguments"},
	{name: "copy flag", text: base + "COPY --form=x a b\n", line: 2, want: "unknown flag: --form (did you mean from?)"},
	{name: "copy flag twice", text: base + "COPY --from=a --from=b a b\n", line: 2, want: "duplicate flag specified: --from"},
	{name: "copy flag value", text: base + "COPY --link=maybe a b\n", line: 2, want: `flag --link wants true or false, not "maybe"`},
	{name: "copy flag no value", text: base + "COPY --chown a b\n", line: 2, want: "missing a value on flag: --chown"},
	{name: "copy variable", text: base + "COPY --from=$X a b\n", line: 2, want: "variable expansion is not supported for --from"},
	{name: "copy forward", text: base[:len(base)-1] + " AS one\nCOPY --from=later a b\nFROM scratch AS later\nFROM one\n", line: 2, want: `cannot copy from stage "later", it needs to be defined before current stage: it begins on line 3`},
	{name: "copy forward index", text: base[:len(base)-1] + " AS one\nCOPY --from=1 a b\nFROM scratch\nFROM one\n", line: 2, want: `cannot copy from stage "1", it needs to be defined before current stage: it begins on line 3`},
	{name: "copy self", text: base[:len(base)-1] + " AS me\nCOPY --from=me a b\n", line: 2, want: "circular dependency detected on stage: me"},
	{name: "copy index", text: base + "COPY --from=7 a b\n", line: 2, want: "invalid stage index 7"},
	{name: "copy own index", text: base + "COPY --from=0 a b\n", line: 2, want: "a stage cannot read from itself"},
	{name: "copy chmod", text: base + "COPY --chmod=99 a b\n", line: 2, want: "invalid chmod parameter: '99'", late: true},
	{name: "copy chmod big", text: base + "COPY --chmod=17777 a b\n", line: 2, want: "invalid chmod parameter", late: true},
	{name: "copy url", text: base + "COPY https://x/y z\n", line: 2, want: "source can't be a URL for COPY", late: true},
	{name: "copy git", text: base + "COPY https://x/y.git z\n", line: 2, want: "source can't be a git ref for COPY", late: true},
	{name: "copy heredoc dest", text: base + "COPY a <<EOF\nEOF\n", line: 2, want: "COPY cannot accept a heredoc as a destination"},
	{name: "heredoc", text: base + "RUN <<EOF\nx\n", line: 2, want: "unterminated heredoc"},
	{name: "add checksum", text: base + "ADD --checksum=sha256:ab https://x/y /z\n", line: 2, want: "checksum", late: true},
	{name: "add checksum local", text: base + "ADD --checksum=sha256:ab y /z\n", line: 2, want: "checksum requires HTTP(S) or Git sources", late: true},
	{name: "add query", text: base + "ADD https://x/y.git?foo=1 /z\n", line: 2, want: `unexpected query "foo"`, late: true},
	{name: "run empty", text: base + "RUN\n", line: 2, want: "RUN requires a command"},
	{name: "run network", text: base + "RUN --network=hots x\n", line: 2, want: `invalid network mode "hots" (did you mean host?)`},
	{name: "run security", text: base + "RUN --security=x x\n", line: 2, want: `security "x" is not valid`},
	{name: "mount type", text: base + "RUN --mount=type=cahce,target=/x y\n", line: 2, want: `unsupported mount type "cahce" (did you mean cache?)`},
	{name: "mount forward", text: base[:len(base)-1] + " AS a\nRUN --mount=from=b,target=/x y\nFROM scratch AS b\nFROM a\n", line: 2, want: "needs to be defined before current stage"},
	{name: "mount root", text: base + "RUN --mount=target=/ y\n", line: 2, want: `invalid mount target "/"`, late: true},
	{name: "mount late", text: base + "ARG T=nope\nRUN --mount=type=$T,target=/x y\n", line: 3, want: `unsupported mount type "nope"`, late: true},
	{name: "workdir two", text: base + "WORKDIR\n", line: 2, want: "WORKDIR"},
	{name: "shell form", text: base + "SHELL sh -c\n", line: 2, want: "SHELL requires the arguments to be in JSON form"},
	{name: "expose", text: base + "EXPOSE 70000\n", line: 2, want: `invalid port "70000"`, late: true},
	{name: "expose range", text: base + "EXPOSE 9-8\n", line: 2, want: `invalid port range "9-8"`, late: true},
	{name: "expose proto", text: base + "EXPOSE 80/icmp\n", line: 2, want: `invalid protocol "icmp"`, late: true},
	{name: "signal", text: base + "STOPSIGNAL BAD\n", line: 2, want: `"BAD" is not a signal`, late: true},
	{name: "volume", text: base + "VOLUME [\"\"]\n", line: 2, want: "VOLUME needs a path"},
	{name: "healthcheck", text: base + "HEALTHCHECK curl x\n", line: 2, want: `unknown type "CURL" in HEALTHCHECK (try CMD)`},
	{name: "healthcheck empty", text: base + "HEALTHCHECK CMD\n", line: 2, want: "missing command after HEALTHCHECK CMD"},
	{name: "healthcheck none", text: base + "HEALTHCHECK NONE x\n", line: 2, want: "HEALTHCHECK NONE takes no arguments"},
	{name: "healthcheck time", text: base + "HEALTHCHECK --interval=1 CMD x\n", line: 2, want: `--interval: invalid duration "1"`},
	{name: "healthcheck short", text: base + "HEALTHCHECK --timeout=1us CMD x\n", line: 2, want: "--timeout cannot be less than 1ms"},
	{name: "healthcheck retries", text: base + "HEALTHCHECK --retries=-1 CMD x\n", line: 2, want: "--retries cannot be negative"},
	{name: "onbuild onbuild", text: base + "ONBUILD ONBUILD RUN x\n", line: 2, want: "ONBUILD isn't allowed as an ONBUILD trigger"},
	{name: "onbuild from", text: base + "ONBUILD FROM x\n", line: 2, want: "FROM isn't allowed as an ONBUILD trigger"},
	{name: "onbuild unknown", text: base + "ONBUILD RNU x\n", line: 2, want: "unknown instruction: RNU (did you mean RUN?)"},
	{name: "onbuild bad", text: base[:len(base)-1] + " AS a\nONBUILD COPY x\nFROM a\nRUN y\n", line: 3, want: "COPY requires at least two arguments", late: true},
	{name: "syntax", text: "# syntax=example.com/other:1\n" + base, line: 1, want: "there is no frontend gateway.v0"},
	{name: "syntax arg", text: base, opts: map[string]string{"build-arg:BUILDKIT_SYNTAX": "x/y:1"}, want: "frontend of BUILDKIT_SYNTAX=x/y:1: there is no frontend gateway.v0"},
	{name: "opt platform", text: base, opts: map[string]string{"platform": "what"}, want: `invalid platform "what"`},
	{name: "opt caps", text: base, opts: map[string]string{"frontend.caps": "moby.buildkit.frontend.nope+forward"}, want: "moby.buildkit.frontend.nope"},
	{name: "opt network", text: base, opts: map[string]string{"force-network-mode": "hots"}, want: `invalid network mode "hots"`},
	{name: "opt mode", text: base, opts: map[string]string{"image-resolve-mode": "pul"}, want: "did you mean pull?"},
	{name: "opt hosts", text: base, opts: map[string]string{"add-hosts": "a=b"}, want: "want host=ip"},
	{name: "opt multi", text: base, opts: map[string]string{"platform": "linux/amd64,linux/arm64", "multi-platform": "false"}, want: "multi-platform is off"},
	{name: "opt epoch", text: base, opts: map[string]string{"build-arg:SOURCE_DATE_EPOCH": "noon"}, want: "invalid SOURCE_DATE_EPOCH: noon"},
	{name: "opt subrequest", text: base, opts: map[string]string{"requestid": "frontend.nope"}, want: "unsupported request frontend.nope"},
	{name: "context", text: "FROM x\n", opts: map[string]string{"context:x": "ftp:y"}, line: 1, want: "unsupported context source ftp for x", late: true},
	{name: "windows", text: "FROM --platform=windows/amd64 scratch\nRUN x\n", opts: map[string]string{"platform": "windows/amd64"}, line: 2, want: "not implemented: RUN for Windows"},
	{name: "epoch stage", text: "ARG SOURCE_DATE_EPOCH=src\nFROM scratch AS src\nCOPY a /\nFROM scratch\n", line: 2, want: "SOURCE_DATE_EPOCH stage does not meet source-only requirements"},
	{name: "epoch default", text: "ARG SOURCE_DATE_EPOCH=noon\n" + base, want: "invalid SOURCE_DATE_EPOCH: noon"},
}

func TestBadDockerfiles(t *testing.T) {
	for _, c := range bad {
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
			for _, leak := range []string{"*instruction.", "*errors.", "dockerfile.stage", "failed to"} {
				if strings.Contains(err.Error(), leak) && !strings.Contains(err.Error(), "failed to process") {
					t.Errorf("the error %v shows %q", err, leak)
				}
			}
			line := 0
			var src *errdefs.SourceError
			if errors.As(err, &src) {
				line = int(src.Ranges[0].Start.Line)
				if src.Info.Language != "Dockerfile" || src.Info.Filename != "Dockerfile" || string(src.Info.Data) != c.text {
					t.Errorf("the source is %v", src.Info)
				}
			}
			if line != c.line {
				t.Errorf("the error %v is about line %d, not %d", err, line, c.line)
			}
			if !c.late && len(bridge.resolved) > 0 {
				t.Errorf("%v was asked for before the error", bridge.resolved)
			}
		})
	}
}
