package dockerfile

import (
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/llb"
)

// sources lists the identifiers of the sources in a definition.
func sources(t *testing.T, def *pb.Definition) string {
	t.Helper()
	var ids []string
	for _, op := range opsOf(t, def) {
		if src := op.GetSource(); src != nil {
			ids = append(ids, src.Identifier)
		}
	}
	return strings.Join(ids, " ")
}

func TestContextOfLayout(t *testing.T) {
	bridge := newFakeBridge(t)
	img := bridge.images["localhost:5731/rich"]
	bridge.images["docker.io/library/tools"] = img
	bridge.images["tools"] = img
	p := convertOne(t, bridge, "FROM tools\nRUN x\n",
		"context:tools=oci-layout://store@"+img.Digest.String(), OptSession+"=me")
	src := opsOf(t, p.Definition)[0].GetSource()
	if want := "oci-layout://docker.io/library/tools@" + img.Digest.String(); src.Identifier != want {
		t.Errorf("the source is %s, want %s", src.Identifier, want)
	}
	if src.Attrs[pb.AttrOCILayoutStoreID] != "store" || src.Attrs[pb.AttrOCILayoutSessionID] != "me" {
		t.Errorf("attributes %v", src.Attrs)
	}
	if p.Image.Config.User != "app" {
		t.Errorf("config %+v", p.Image.Config)
	}
}

func TestContextOfPlatformWins(t *testing.T) {
	bridge := newFakeBridge(t)
	for platform, want := range map[string]string{"linux/amd64": "base", "linux/arm64": "rich"} {
		p := convertOne(t, bridge, "FROM thing\nRUN x\n", "platform="+platform,
			"context:thing=docker-image://localhost:5731/base", "context:thing::linux/arm64=docker-image://localhost:5731/rich")
		if got := sources(t, p.Definition); got != "docker-image://localhost:5731/"+want+":latest" {
			t.Errorf("%s: %s", platform, got)
		}
	}
}

func TestInputs(t *testing.T) {
	made := llb.File(llb.Output{}, []llb.FileAction{llb.Mkfile{Path: "/f", Mode: 0o644, Data: []byte("x")}}, llb.Meta{})
	def, err := llb.Marshal(t.Context(), made, ocispec.Platform{OS: "linux", Architecture: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	bridge := newFakeBridge(t)
	bridge.files["Dockerfile"] = []byte("FROM given\nCOPY f /g\nENV B=$A\n")
	built, err := Convert(t.Context(), bridge, &frontend.Request{
		Opts: map[string]string{
			"context:given":        "input:one",
			"input-metadata:one":   `{"containerimage.config":"eyJjb25maWciOnsiRW52IjpbIkE9ZnJvbS1pbnB1dCJdfX0="}`,
			"context:other::linux": "unused",
		},
		Inputs: map[string]*pb.Definition{"one": def, "context": def},
	})
	if err != nil {
		t.Fatal(err)
	}
	ops := opsOf(t, built[0].Definition)
	if got := sources(t, built[0].Definition); got != "" {
		t.Errorf("sources %s besides the inputs", got)
	}
	if ops[0].GetFile().Actions[0].GetMkfile() == nil || len(ops) != 3 {
		t.Errorf("operations %v", ops)
	}
	// Base and context are the same input.
	act := ops[1].GetFile().Actions[0]
	if act.Input != 0 || act.SecondaryInput != 0 {
		t.Errorf("COPY is %v", act)
	}
	if env := strings.Join(built[0].Image.Config.Env, " "); !strings.Contains(env, "A=from-input") || !strings.Contains(env, "B=from-input") {
		t.Errorf("environment %s", env)
	}
}

func TestLaterMountIsOnTop(t *testing.T) {
	p := convertOne(t, newFakeBridge(t), "FROM localhost:5731/base\nRUN --mount=type=cache,target=/x,id=one --mount=type=cache,target=/x,id=two y\n")
	ops := opsOf(t, p.Definition)
	mounts := ops[len(ops)-2].GetExec().Mounts
	if len(mounts) != 3 || mounts[1].CacheOpt.ID != "/one" || mounts[2].CacheOpt.ID != "/two" {
		t.Errorf("mounts %v", mounts)
	}
}

func TestSecretsAndTheirNames(t *testing.T) {
	for mount, want := range map[string]string{
		"id=tok":                   "mount tok /run/secrets/tok",
		"id=a/b":                   "mount a/b /run/secrets/b",
		"target=/s/key":            "mount key /s/key",
		"id=tok,env=T":             "env tok T",
		"id=tok,env=":              "env tok tok",
		"id=tok,env=T,target=/t":   "env tok T mount tok /t",
		"source=tok,target=rel/to": "mount tok rel/to",
	} {
		p := convertOne(t, newFakeBridge(t), "FROM localhost:5731/base\nRUN --mount=type=secret,"+mount+" y\n")
		ops := opsOf(t, p.Definition)
		e := ops[len(ops)-2].GetExec()
		var got []string
		for _, s := range e.Secretenv {
			got = append(got, "env", s.ID, s.Name)
		}
		for _, m := range e.Mounts {
			if m.SecretOpt != nil {
				got = append(got, "mount", m.SecretOpt.ID, m.Dest)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s gives %v, want %s", mount, got, want)
		}
	}
}

func TestWarnings(t *testing.T) {
	bridge := newFakeBridge(t)
	convertOne(t, bridge, "FROM localhost:5731/base\nMAINTAINER me\n", "platform=linux/amd64")
	if len(bridge.warnings) != 1 {
		t.Fatalf("warnings %v", bridge.warnings)
	}
	w := bridge.warnings[0]
	if !strings.HasPrefix(w.Short, "MaintainerDeprecated: ") || !strings.HasSuffix(w.Short, "(line 2)") ||
		w.Level != 1 || w.Ranges[0].Start.Line != 2 || w.Vertex == "" || w.URL == "" || len(w.Detail) != 1 {
		t.Errorf("warning %+v", w)
	}
	bridge.files["Dockerfile"] = []byte("# check=error=true\nFROM localhost:5731/base\nCMD x\nMAINTAINER me\n")
	_, err := Convert(t.Context(), bridge, &frontend.Request{})
	if err == nil || err.Error() != "lint violation found for rules: JSONArgsRecommended, MaintainerDeprecated" {
		t.Errorf("error %v", err)
	}
	_, err = Convert(t.Context(), bridge, &frontend.Request{Opts: map[string]string{"build-arg:BUILDKIT_DOCKERFILE_CHECK": "skip=all"}})
	if err != nil {
		t.Error(err)
	}
	_, err = Convert(t.Context(), bridge, &frontend.Request{Opts: map[string]string{"build-arg:BUILDKIT_DOCKERFILE_CHECK": "skpi=all"}})
	if err == nil || !strings.Contains(err.Error(), "did you mean skip?") {
		t.Error(err)
	}
}
