package dockerfile

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"
	spec "github.com/moby/docker-image-spec/specs-go/v1"

	"github.com/dbuild/dbuild/frontend"
)

// build converts a Dockerfile for one platform.
func convertOne(t testing.TB, bridge *fakeBridge, text string, opts ...string) *Platform {
	t.Helper()
	bridge.files["Dockerfile"] = []byte(text)
	m := map[string]string{}
	for _, o := range opts {
		k, v, _ := strings.Cut(o, "=")
		m[k] = v
	}
	built, err := Convert(t.Context(), bridge, &frontend.Request{Opts: m})
	if err != nil {
		t.Fatal(err)
	}
	if len(built) != 1 {
		t.Fatalf("%d platforms", len(built))
	}
	return built[0]
}

func opsOf(t testing.TB, def *pb.Definition) []*pb.Op {
	t.Helper()
	var ops []*pb.Op
	for _, dt := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			t.Fatal(err)
		}
		ops = append(ops, &op)
	}
	return ops
}

// envOfRun is the environment of the last RUN.
func envOfRun(t testing.TB, p *Platform) []string {
	t.Helper()
	for _, op := range slices.Backward(opsOf(t, p.Definition)) {
		if e := op.GetExec(); e != nil {
			return slices.DeleteFunc(e.Meta.Env, func(kv string) bool {
				return strings.HasPrefix(kv, "PATH=") || kv == "BASE=yes"
			})
		}
	}
	t.Fatal("there is no RUN")
	return nil
}

func TestArgScopes(t *testing.T) {
	const from = "FROM localhost:5731/base\n"
	for _, c := range []struct {
		name, text string
		opts       []string
		want       []string
	}{
		{"undeclared", from + "RUN x", []string{"build-arg:A=1"}, nil},
		{"given", from + "ARG A\nRUN x", []string{"build-arg:A=1"}, []string{"A=1"}},
		{"given empty", from + "ARG A=d\nRUN x", []string{"build-arg:A="}, []string{"A="}},
		{"default", from + "ARG A=d B=${A}2\nRUN x", nil, []string{"A=d", "B=d2"}},
		{"no value", from + "ARG A\nRUN x", nil, nil},
		{"too late", from + "RUN x\nARG A=1", nil, nil},
		{"global unseen", "ARG A=g\n" + from + "RUN x", nil, nil},
		{"global", "ARG A=g\n" + from + "ARG A\nRUN x", nil, []string{"A=g"}},
		{"default beats global", "ARG A=g\n" + from + "ARG A=d\nRUN x", nil, []string{"A=d"}},
		{"given beats all", "ARG A=g\n" + from + "ARG A=d\nRUN x", []string{"build-arg:A=b"}, []string{"A=b"}},
		{"inherited", from + "ARG A=1\nFROM 0\nRUN x", nil, []string{"A=1"}},
		{"not of siblings", from + "ARG A=1\n" + from + "RUN x", nil, nil},
		{"env beats arg", from + "ARG A=1\nENV A=2\nRUN x", nil, []string{"A=2"}},
		{"automatic unseen", from + "RUN x", []string{"platform=linux/arm64"}, nil},
		{
			"automatic", from + "ARG TARGETPLATFORM TARGETOS TARGETARCH TARGETVARIANT BUILDPLATFORM BUILDARCH TARGETSTAGE DOCKEROS DOCKERARCH\nRUN x",
			[]string{"platform=linux/arm/v7"},
			[]string{
				"TARGETPLATFORM=linux/arm/v7", "TARGETOS=linux", "TARGETARCH=arm", "TARGETVARIANT=v7",
				"BUILDPLATFORM=linux/amd64", "BUILDARCH=amd64", "TARGETSTAGE=default", "DOCKEROS=linux", "DOCKERARCH=arm",
			},
		},
		{"automatic default", from + "ARG TARGETARCH=mine\nRUN x", nil, []string{"TARGETARCH=mine"}},
		{"both names follow", from + "ARG TARGETARCH DOCKERARCH\nRUN x", []string{"build-arg:TARGETARCH=foo"}, []string{"TARGETARCH=foo", "DOCKERARCH=foo"}},
		{"first name alone", from + "ARG TARGETARCH DOCKERARCH\nRUN x", []string{"build-arg:DOCKERARCH=foo"}, []string{"TARGETARCH=amd64", "DOCKERARCH=foo"}},
		{"bare global keeps automatic", "ARG DOCKEROS\nARG TARGETARCH\n" + from + "ARG DOCKEROS TARGETARCH\nRUN x", nil, []string{"DOCKEROS=linux", "TARGETARCH=amd64"}},
		{"cross keeps target", "FROM --platform=$BUILDPLATFORM localhost:5731/base\nARG TARGETARCH\nRUN x", []string{"platform=linux/arm64"}, []string{"TARGETARCH=arm64"}},
		{"in FROM", "FROM localhost:5731/base AS base-arm64\nARG A=picked\nFROM base-$DOCKERARCH\nRUN x", []string{"platform=linux/arm64"}, []string{"A=picked"}},
		{"target stage", from[:len(from)-1] + " AS one\nARG TARGETSTAGE\nRUN x\nFROM one AS two", []string{"target=one"}, []string{"TARGETSTAGE=one"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := convertOne(t, newFakeBridge(t), c.text, c.opts...)
			if d := cmp.Diff(c.want, envOfRun(t, p)); d != "" && len(c.want)+len(envOfRun(t, p)) > 0 {
				t.Error(d)
			}
			for _, kv := range p.Image.Config.Env {
				if strings.HasPrefix(kv, "TARGET") || strings.HasPrefix(kv, "DOCKER") {
					t.Errorf("the image has %s", kv)
				}
			}
		})
	}
}

func TestOnlyWhatIsNeededIsAskedFor(t *testing.T) {
	const text = `
FROM localhost:5731/base AS a
RUN one
FROM localhost:5731/nosuch AS unused
COPY x y
FROM localhost:5731/base AS b
RUN --mount=type=cache,target=/c --mount=type=secret,id=s two
FROM scratch
COPY --from=a /x /
COPY --from=b /y /
`
	bridge := newFakeBridge(t)
	convertOne(t, bridge, text)
	if d := cmp.Diff([]string{"[internal] load metadata for localhost:5731/base:latest"}, bridge.resolved); d != "" {
		t.Errorf("images (-want +got):\n%s", d)
	}
	// Nobody reads the context, so only the Dockerfile is fetched.
	if len(bridge.solved) != 1 {
		t.Errorf("%d fetches from the client", len(bridge.solved))
	}
	src := opsOf(t, bridge.solved[0])[0].GetSource()
	if want := `["Dockerfile","Dockerfile.dockerignore","dockerfile"]`; src.Attrs[pb.AttrFollowPaths] != want {
		t.Errorf("fetched %s", src.Attrs[pb.AttrFollowPaths])
	}
}

func TestIgnoreFiles(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"none", nil, ""},
		{"of the context", map[string]string{".dockerignore": "a\n!b"}, `["a","!b"]`},
		{"of the Dockerfile", map[string]string{".dockerignore": "a", "Dockerfile.dockerignore": "c"}, `["c"]`},
		{"empty of the Dockerfile", map[string]string{".dockerignore": "a", "Dockerfile.dockerignore": ""}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			bridge := newFakeBridge(t)
			for k, v := range c.files {
				bridge.files[k] = []byte(v)
			}
			p := convertOne(t, bridge, "FROM scratch\nCOPY x y\n")
			got := opsOf(t, p.Definition)[0].GetSource().Attrs[pb.AttrExcludePatterns]
			if got != c.want {
				t.Errorf("excluded %s, want %s", got, c.want)
			}
		})
	}
}

func TestDockerfileNames(t *testing.T) {
	bridge := newFakeBridge(t)
	bridge.files["dockerfile"] = []byte("FROM scratch\nLABEL which=lower\n")
	built, err := Convert(t.Context(), bridge, &frontend.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if got := built[0].Image.Config.Labels["which"]; got != "lower" {
		t.Errorf("built %q", got)
	}
	bridge.files["sub/My.Dockerfile"] = []byte("FROM scratch\nLABEL which=my\n")
	built, err = Convert(t.Context(), bridge, &frontend.Request{Opts: map[string]string{"filename": "sub/My.Dockerfile"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := built[0].Image.Config.Labels["which"]; got != "my" {
		t.Errorf("built %q", got)
	}
	_, err = Convert(t.Context(), bridge, &frontend.Request{Opts: map[string]string{"filename": "none"}})
	if err == nil || !strings.Contains(err.Error(), "read none: ") {
		t.Errorf("a missing Dockerfile: %v", err)
	}
}

func TestResult(t *testing.T) {
	bridge := newFakeBridge(t)
	bridge.files["Dockerfile"] = []byte("FROM localhost:5731/rich\nARG TARGETARCH\nLABEL arch=$TARGETARCH\nENV X=1\n")
	res, err := New().Solve(t.Context(), bridge, &frontend.Request{Opts: map[string]string{
		"platform": "linux/arm64,linux/amd64", "label:more": "1", "build-arg:SOURCE_DATE_EPOCH": "42",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if res.Ref != nil || len(res.Refs) != 2 {
		t.Fatalf("%d refs", len(res.Refs))
	}
	for _, arch := range []string{"arm64", "amd64"} {
		id := "linux/" + arch
		if res.Refs[id] == nil {
			t.Errorf("no ref for %s", id)
		}
		var img, from spec.DockerOCIImage
		if err := json.Unmarshal(res.Metadata["containerimage.config/"+id], &img); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(res.Metadata["containerimage.base.config/"+id], &from); err != nil {
			t.Fatal(err)
		}
		if img.Architecture != arch || img.Config.Labels["arch"] != arch || img.Config.Labels["more"] != "1" || img.Config.Labels["a"] != "1" {
			t.Errorf("%s: config %+v", id, img)
		}
		if _, ok := from.Config.Labels["arch"]; ok || from.Architecture != arch {
			t.Errorf("%s: base config %+v", id, from)
		}
		if got := string(res.Metadata["source.date.epoch/"+id]); got != "42" {
			t.Errorf("epoch %q", got)
		}
		last := img.History[len(img.History)-1]
		if last.CreatedBy != "ENV X=1" || last.Comment != "buildkit.dockerfile.v0" || !last.EmptyLayer || last.Created.Unix() != 42 {
			t.Errorf("history %+v", last)
		}
	}
	want := `{"Platforms":[{"ID":"linux/arm64","Platform":{"architecture":"arm64","os":"linux"}},{"ID":"linux/amd64","Platform":{"architecture":"amd64","os":"linux"}}]}`
	if got := string(res.Metadata["refs.platforms"]); got != want {
		t.Errorf("platforms %s", got)
	}

	bridge.files["Dockerfile"] = []byte("FROM scratch\n")
	res, err = New().Solve(t.Context(), bridge, &frontend.Request{})
	if err != nil {
		t.Fatal(err)
	}
	if res.Ref != nil || res.Refs != nil {
		t.Errorf("an empty image has a ref")
	}
}

func TestLocationsOfOperations(t *testing.T) {
	p := convertOne(t, newFakeBridge(t), "FROM localhost:5731/base\n\nRUN a \\\n  b\n", "no-cache=")
	ops := opsOf(t, p.Definition)
	run := ops[len(ops)-1].Inputs[0].Digest
	loc := p.Definition.Source.Locations[run].GetLocations()
	if len(loc) != 1 || loc[0].Ranges[0].Start.Line != 3 || loc[0].Ranges[len(loc[0].Ranges)-1].End.Line != 4 {
		t.Errorf("RUN is at %v", loc)
	}
	info := p.Definition.Source.Infos[0]
	if info.Filename != "Dockerfile" || info.Language != "Dockerfile" || len(info.Definition.GetDef()) == 0 {
		t.Errorf("source %v", info)
	}
	if !p.Definition.Metadata[run].IgnoreCache {
		t.Error("RUN may use the cache")
	}
}

func TestSubrequests(t *testing.T) {
	bridge := newFakeBridge(t)
	bridge.files["Dockerfile"] = []byte("# one makes it\nFROM localhost:5731/base AS one\nRUN x\nFROM one\n")
	for id, want := range map[string]string{
		"frontend.convertllb":           `"RUN x"`,
		"frontend.targets":              `"description": "makes it"`,
		"frontend.subrequests.describe": `"frontend.targets"`,
	} {
		res, err := New().Solve(t.Context(), bridge, &frontend.Request{Opts: map[string]string{"requestid": id}})
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(res.Metadata["result.json"]), want) {
			t.Errorf("%s: no %s in %s", id, want, res.Metadata["result.json"])
		}
	}
}

func TestGitContext(t *testing.T) {
	bridge := newFakeBridge(t)
	bridge.files["https://x/Dockerfile"] = []byte("unused")
	_, err := Convert(t.Context(), bridge, &frontend.Request{Opts: map[string]string{
		"context": "https://github.com/o/r.git#main:sub", "build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR": "1",
	}})
	if err == nil { // the fake has no git; what was asked for is what counts
		t.Fatal("the fake bridge has a repository")
	}
	src := opsOf(t, bridge.solved[0])[0].GetSource()
	if src.Identifier != "git://github.com/o/r.git#main:sub" || src.Attrs[pb.AttrKeepGitDir] != "true" {
		t.Errorf("source %v", src)
	}
}
