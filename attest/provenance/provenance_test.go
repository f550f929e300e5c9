package provenance

import (
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/llb"
	"github.com/google/go-cmp/cmp"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	amd64   = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	base    = Material{Kind: Image, Name: "docker.io/library/base:1", URI: "pkg:docker/base@1?platform=linux%2Famd64", Digest: map[string]string{"sha256": "b"}}
	repo    = Material{Kind: Git, Name: "r", URI: "https://me:hush@example.invalid/r.git#v1", Digest: map[string]string{"sha1": "c"}}
	file    = &pb.SourceInfo{Filename: "Dockerfile", Language: "Dockerfile", Data: []byte("FROM base:1\nADD https://me:hush@example.invalid/x /x\n")}
	started = time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC)
)

// graph is an image and one step, each on a line of file.
func graph(t *testing.T, o llb.ExecOptions) *llb.Graph {
	t.Helper()
	at := func(f *pb.SourceInfo, line int32) []*llb.SourceLocation {
		p := &pb.Position{Line: line}
		return []*llb.SourceLocation{{File: f, Ranges: []*pb.Range{{Start: p, End: p}}}}
	}
	o.Root = llb.Image("base:1", llb.ImageOptions{}, llb.Meta{Locations: at(file, 1)})
	o.Args, o.Cwd = []string{"true"}, "/"
	// The same file from another graph.
	again := file.CloneVT()
	def, err := llb.Marshal(t.Context(), llb.Exec(o, llb.Meta{Locations: at(again, 2)}).Root(), amd64)
	if err != nil {
		t.Fatal(err)
	}
	g, err := llb.Load(def, llb.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func capture(t *testing.T, o llb.ExecOptions, req *Request) *Capture {
	t.Helper()
	g := graph(t, o)
	c := &Capture{
		Request: req, Graph: g, ID: "id", Started: started, Finished: started.Add(time.Second), Platform: "linux/amd64",
		Env:    map[string]any{"site": "here"},
		Layers: map[llb.Edge][]ocispec.Descriptor{{Vertex: g.Vertices[0]}: {{Digest: "sha256:l", Size: 1}}},
	}
	c.Materials = []Material{repo, base, base}
	c.AddGraph(g)
	return c
}

func parse(t *testing.T, c *Capture, o attest.Provenance) (text string, v map[string]any) {
	t.Helper()
	b, err := c.Predicate(&o)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return string(b), v
}

// at follows keys of objects.
func at(v any, keys ...string) any {
	for _, k := range keys {
		m, _ := v.(map[string]any)
		v = m[k]
	}
	return v
}

var request = &Request{Frontend: "dockerfile.v0", Args: map[string]string{
	"build-arg:A": "https://me:hush@example.invalid/a", "label:l": "x", "target": "t", "filename": "D", "platform": "linux/amd64",
	"attest:provenance": "", "context": "https://me:hush@example.invalid/r.git#v1:dir", "vcs:source": "https://me:hush@example.invalid/v",
	"source": "dockerfile.v0", "cmdline": "dockerfile.v0",
}}

func TestMax(t *testing.T) {
	c := capture(t, llb.ExecOptions{
		Secrets: []llb.Secret{{ID: "s", Target: "/s", Optional: true}, {ID: "s", Target: "/s2"}, {ID: "e", Env: "E", Optional: true}},
		SSH:     []llb.SSH{{Optional: true}},
	}, request)
	c.Root = &Request{Args: map[string]string{"vcs:source": "x", "root": "https://me:hush@example.invalid/root"}}
	text, v := parse(t, c, attest.Provenance{Max: true, Version: attest.V1, BuilderID: "https://builder", Reproducible: true})
	if strings.Contains(text, "hush") {
		t.Errorf("credentials: %s", text)
	}
	def, run := at(v, "buildDefinition"), at(v, "runDetails", "metadata")
	for _, tt := range []struct {
		of   any
		keys string
		want any
	}{
		{def, "buildType", buildType},
		{def, "externalParameters configSource uri", "https://xxxxx:xxxxx@example.invalid/r.git#v1:dir"},
		{def, "externalParameters configSource digest sha1", "c"},
		{def, "externalParameters configSource path", "D"},
		{def, "externalParameters request frontend", "dockerfile.v0"},
		{def, "externalParameters request args", map[string]any{"build-arg:A": "https://xxxxx:xxxxx@example.invalid/a", "label:l": "x", "target": "t"}},
		{def, "externalParameters request secrets", []any{map[string]any{"id": "e", "optional": true}, map[string]any{"id": "s"}}},
		{def, "externalParameters request ssh", []any{map[string]any{"id": "default", "optional": true}}},
		{def, "externalParameters request root request args", map[string]any{"root": "https://xxxxx:xxxxx@example.invalid/root"}},
		{def, "internalParameters site", "here"},
		{def, "internalParameters builderPlatform", "linux/amd64"},
		{v, "runDetails builder id", "https://builder"},
		{run, "invocationId", "id"},
		{run, "startedOn", "2024-05-06T07:08:09Z"},
		{run, "finishedOn", "2024-05-06T07:08:10Z"},
		{run, "buildkit_reproducible", true},
		{run, "buildkit_hermetic", nil}, // the step has a network
		{run, "buildkit_completeness", map[string]any{"request": true, "resolvedDependencies": true}},
		{run, "buildkit_metadata vcs", map[string]any{"source": "https://xxxxx:xxxxx@example.invalid/v"}},
		{run, "buildkit_metadata layers step0:0", []any{[]any{map[string]any{"mediaType": "", "digest": "sha256:l", "size": 1.0}}}},
	} {
		if d := cmp.Diff(tt.want, at(tt.of, strings.Fields(tt.keys)...)); d != "" {
			t.Errorf("%s: %s", tt.keys, d)
		}
	}
	var uris []any
	for _, m := range at(def, "resolvedDependencies").([]any) {
		uris = append(uris, at(m, "uri"))
	}
	if d := cmp.Diff([]any{base.URI, "https://xxxxx:xxxxx@example.invalid/r.git#v1"}, uris); d != "" {
		t.Error(d)
	}
	if steps := at(def, "internalParameters", "buildConfig", "llbDefinition").([]any); len(steps) != 3 || at(steps[1], "inputs").([]any)[0] != "step0:0" {
		t.Errorf("steps %v", steps)
	}
	if infos := at(run, "buildkit_metadata", "source", "infos").([]any); len(infos) != 1 || at(infos[0], "filename") != "Dockerfile" {
		t.Errorf("sources %v", infos)
	}
	var data struct {
		RunDetails struct {
			Metadata struct {
				BuildKit struct {
					Source struct{ Infos []struct{ Data []byte } } `json:"source"`
				} `json:"buildkit_metadata"`
			}
		}
	}
	if err := json.Unmarshal([]byte(text), &data); err != nil {
		t.Fatal(err)
	}
	if got := string(data.RunDetails.Metadata.BuildKit.Source.Infos[0].Data); got != "FROM base:1\nADD https://xxxxx:xxxxx@example.invalid/x /x\n" {
		t.Errorf("file %q", got)
	}
}

func TestMinTellsNoSecrets(t *testing.T) {
	c := capture(t, llb.ExecOptions{Network: pb.NetMode_NONE, Secrets: []llb.Secret{{ID: "s", Target: "/s"}}}, request)
	c.Root = &Request{Args: map[string]string{"root": "x"}}
	c.Request.Inputs = map[string]*Request{"in": {Frontend: "dockerfile.v0", Args: map[string]string{"target": "i", "build-arg:B": "b"}}}
	defer func() { c.Request.Inputs = nil }()
	_, v := parse(t, c, attest.Provenance{Version: attest.V1})
	req := at(v, "buildDefinition", "externalParameters", "request")
	want := map[string]any{
		"frontend": "dockerfile.v0", "args": map[string]any{"target": "t"},
		"inputs": map[string]any{"in": map[string]any{
			"configSource": map[string]any{}, "request": map[string]any{"frontend": "dockerfile.v0", "args": map[string]any{"target": "i"}},
		}},
	}
	if d := cmp.Diff(want, req); d != "" {
		t.Error(d)
	}
	meta := at(v, "runDetails", "metadata")
	if at(meta, "buildkit_completeness", "request") != false || at(meta, "buildkit_hermetic") != true {
		t.Errorf("metadata %v", meta)
	}
	if at(v, "buildDefinition", "internalParameters", "buildConfig") != nil || at(meta, "buildkit_metadata", "source") != nil || at(meta, "buildkit_metadata", "layers") != nil {
		t.Errorf("too much: %v", v)
	}
}

func TestOldVersionSaysTheSame(t *testing.T) {
	c := capture(t, llb.ExecOptions{}, request)
	c.Locals = []string{"context", "context", "a"}
	text, v := parse(t, c, attest.Provenance{Max: true, Version: attest.V02, BuilderID: "b"})
	if strings.Contains(text, "hush") {
		t.Errorf("credentials: %s", text)
	}
	for _, tt := range []struct {
		keys string
		want any
	}{
		{"buildType", buildType02},
		{"builder id", "b"},
		{"invocation configSource entryPoint", "D"},
		{"invocation parameters frontend", "dockerfile.v0"},
		{"invocation parameters locals", []any{map[string]any{"name": "a"}, map[string]any{"name": "context"}}},
		{"invocation environment", map[string]any{"platform": "linux/amd64", "site": "here"}},
		{"metadata completeness", map[string]any{"parameters": true, "environment": true, "materials": false}},
		{"metadata buildInvocationID", "id"},
	} {
		if d := cmp.Diff(tt.want, at(v, strings.Fields(tt.keys)...)); d != "" {
			t.Errorf("%s: %s", tt.keys, d)
		}
	}
	if len(at(v, "materials").([]any)) != 2 || len(at(v, "buildConfig", "llbDefinition").([]any)) != 3 {
		t.Errorf("materials %v", at(v, "materials"))
	}
}

func TestOwnGraphHasNoArguments(t *testing.T) {
	c := capture(t, llb.ExecOptions{}, &Request{Args: map[string]string{"context": "x", "build-arg:A": "b"}, Compatibility: 10})
	_, v := parse(t, c, attest.Provenance{Max: true, Version: attest.V1})
	want := map[string]any{"configSource": map[string]any{}, "request": map[string]any{"compatibilityVersion": 10.0}}
	if d := cmp.Diff(want, at(v, "buildDefinition", "externalParameters")); d != "" {
		t.Error(d)
	}
	if at(v, "runDetails", "metadata", "buildkit_completeness", "request") != false {
		t.Error("the request is said to be complete")
	}
}

func TestEmptyResult(t *testing.T) {
	for _, g := range []*llb.Graph{nil, {}} {
		c := &Capture{Request: &Request{Frontend: "dockerfile.v0"}, Graph: g}
		_, v := parse(t, c, attest.Provenance{Max: true, Version: attest.V1})
		if at(v, "buildDefinition", "internalParameters", "buildConfig") != nil {
			t.Errorf("%v", v)
		}
	}
}

func TestUnknownMaterials(t *testing.T) {
	missing := Unseen{Op: "sha256:1", Name: "curl", Method: "GET", URI: "https://me:secret@x/y", Reason: "unsuccessful_response"}
	for name, c := range map[string]struct {
		edit   func(*Capture)
		want   string // of the error; "" is none
		listed int
	}{
		"nothing":   {func(*Capture) {}, "", 0},
		"a graph":   {func(c *Capture) { c.Unknown = true }, "incomplete: a step built a graph", 0},
		"a request": {func(c *Capture) { c.Unseen = []Unseen{missing, missing} }, "incomplete: GET https://xxxxx:xxxxx@x/y (unsuccessful_response)", 1},
		"a directory": {func(c *Capture) { c.Locals, c.Unseen = []string{"context"}, []Unseen{missing} },
			`incomplete: the client's directory "context" (local_source), GET`, 2},
		"many": {func(c *Capture) {
			for i := range 9 {
				c.Unseen = append(c.Unseen, Unseen{Method: "GET", URI: strconv.Itoa(i)})
			}
		}, "GET 4 (), and 4 more", 9},
	} {
		t.Run(name, func(t *testing.T) {
			got := capture(t, llb.ExecOptions{}, request)
			got.Locals = nil
			c.edit(got)
			if _, err := got.Predicate(&attest.Provenance{}); err != nil {
				t.Errorf("not asked for: %v", err)
			}
			_, err := got.Predicate(&attest.Provenance{CompleteMaterials: true})
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			var list *bkerrdefs.ProvenanceMaterialsIncompleteError
			if err != nil && (!errors.As(err, &list) || len(list.Incomplete) != c.listed) {
				t.Errorf("the error lists %v", list)
			}
		})
	}
}

func TestProxiedNetworkInDocument(t *testing.T) {
	c := capture(t, llb.ExecOptions{}, request)
	_, v := parse(t, c, attest.Provenance{Version: attest.V1})
	if got := at(v, "runDetails", "metadata", "buildkit_metadata", "network"); got != nil {
		t.Errorf("without a proxy: %v", got)
	}
	c.Proxied = true
	c.Unseen = []Unseen{{Op: "sha256:1", Name: "curl", Method: "PUT", URI: "https://x/y", Reason: "method_not_materializable"}}
	_, v = parse(t, c, attest.Provenance{Version: attest.V1})
	want := map[string]any{"mode": "proxy", "proxy": map[string]any{"incomplete": []any{
		map[string]any{"op": "sha256:1", "name": "curl", "method": "PUT", "uri": "https://x/y", "reason": "method_not_materializable"},
	}}}
	if d := cmp.Diff(want, at(v, "runDetails", "metadata", "buildkit_metadata", "network")); d != "" {
		t.Error(d)
	}
	if at(v, "runDetails", "metadata", "buildkit_completeness", "resolvedDependencies") != false {
		t.Error("the materials are said to be complete")
	}
}

func TestMountsThatAreNeededOnceAreNeeded(t *testing.T) {
	got := mounts([]Mount{{"b", true}, {"a", true}, {"b", false}, {"b", true}})
	if !slices.Equal(got, []Mount{{"a", true}, {"b", false}}) {
		t.Errorf("got %v", got)
	}
}
