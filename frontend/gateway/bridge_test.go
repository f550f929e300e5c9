package gateway_test

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/gateway"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	digest "github.com/opencontainers/go-digest"
)

// What a client gets of a frontend's result depends on what it says it understands.
func TestSolvedResults(t *testing.T) {
	two := func(context.Context, string, *frontend.Request) (*frontend.Result, error) {
		return &frontend.Result{
			Refs: map[string]frontend.Ref{"x": &ref{name: "A", def: define("A")}, "none": nil}, Metadata: map[string][]byte{"k": []byte("v")},
		}, nil
	}
	f, ctx, _ := start(t, gateway.Build{Bridge: &bridge{frontend: two}})
	resp, err := f.Solve(ctx, &gwpb.SolveRequest{Frontend: "any", AllowResultReturn: true, AllowResultArrayRef: true})
	if err != nil {
		t.Fatal(err)
	}
	m := resp.Result.GetRefs().GetRefs()
	if len(m) != 2 || m["x"].GetId() == "" || string(m["x"].GetDef().GetDef()[0]) != "A" || m["none"].GetId() != "" || string(resp.Result.Metadata["k"]) != "v" {
		t.Errorf("got %v", resp)
	}
	resp, err = f.Solve(ctx, &gwpb.SolveRequest{Frontend: "any", AllowResultReturn: true})
	if err != nil {
		t.Fatal(err)
	}
	old := resp.Result.GetRefsDeprecated().GetRefs()
	if len(old) != 2 || old["x"] == "" || old["none"] != "" {
		t.Errorf("deprecated: got %v", resp)
	}
	for _, id := range []string{m["x"].GetId(), old["x"]} {
		got, err := f.ReadFile(ctx, &gwpb.ReadFileRequest{Ref: id, FilePath: "/name"})
		if err != nil || string(got.Data) != "A" {
			t.Errorf("%s: %v, %v", id, got, err)
		}
	}
	resp, err = f.Solve(ctx, &gwpb.SolveRequest{Definition: define("B")})
	if err != nil || resp.Ref == "" || resp.Result.GetRefDeprecated() == "" {
		t.Errorf("the oldest protocol: got %v, %v", resp, err)
	}
	// Nothing to solve is an empty filesystem.
	for _, req := range []*gwpb.SolveRequest{nil, {}, {Definition: &pb.Definition{}}, {AllowResultReturn: true, AllowResultArrayRef: true, Evaluate: true}} {
		resp, err := f.Solve(ctx, req)
		if err != nil || resp.Ref != "" || resp.Result.GetRef().GetId() != "" || resp.Result.GetRefDeprecated() != "" {
			t.Errorf("%v: got %v, %v", req, resp, err)
		}
	}
}

func TestSolveFails(t *testing.T) {
	failing := func(_ context.Context, name string, r *frontend.Request) (*frontend.Result, error) {
		if name == "refs" {
			return &frontend.Result{Refs: map[string]frontend.Ref{"a": nil, "b": &ref{name: "broken"}}}, nil
		}
		return nil, cerrdefs.ErrNotFound.WithMessage("no frontend " + name + " " + r.Opts["k"])
	}
	f, ctx, _ := start(t, gateway.Build{Bridge: &bridge{frontend: failing}})
	if _, err := f.Solve(ctx, &gwpb.SolveRequest{Frontend: "x", FrontendOpt: map[string]string{"k": "v"}}); !cerrdefs.IsNotFound(err) || err.Error() != "no frontend x v" {
		t.Errorf("got %v", err)
	}
	if _, err := f.Solve(ctx, &gwpb.SolveRequest{Definition: define("bad")}); !cerrdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
	for _, req := range []*gwpb.SolveRequest{{Definition: define("broken")}, {Frontend: "refs"}} {
		if _, err := f.Solve(ctx, req); err != nil {
			t.Errorf("a result that is not asked for: %v", err)
		}
		req.Evaluate = true
		if _, err := f.Solve(ctx, req); !errors.Is(err, errBroken) {
			t.Errorf("got %v", err)
		}
	}
	if _, err := f.Evaluate(ctx, &gwpb.EvaluateRequest{Ref: solve(t, f, ctx, "broken")}); !errors.Is(err, errBroken) {
		t.Errorf("got %v", err)
	}
}

func TestReading(t *testing.T) {
	f, ctx, _ := start(t, gateway.Build{})
	id := solve(t, f, ctx, "content")
	read := func(r *gwpb.FileRange) string {
		t.Helper()
		resp, err := f.ReadFile(ctx, &gwpb.ReadFileRequest{Ref: id, FilePath: "/name", Range: r})
		if err != nil {
			t.Fatal(err)
		}
		return string(resp.Data)
	}
	if got := []string{read(nil), read(&gwpb.FileRange{Offset: 3}), read(&gwpb.FileRange{Offset: 1, Length: 2})}; !slices.Equal(got, []string{"content", "tent", "on"}) {
		t.Errorf("got %q", got)
	}
	for _, r := range []*gwpb.FileRange{{Offset: -1}, {Length: -1}, {Offset: -1 << 63, Length: -1 << 63}} {
		if _, err := f.ReadFile(ctx, &gwpb.ReadFileRequest{Ref: id, FilePath: "/name", Range: r}); !cerrdefs.IsInvalidArgument(err) {
			t.Errorf("%v: got %v", r, err)
		}
	}
	if _, err := f.ReadFile(ctx, &gwpb.ReadFileRequest{Ref: id, FilePath: "/other"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if d, err := f.ReadDir(ctx, &gwpb.ReadDirRequest{Ref: id, DirPath: "/"}); err != nil || len(d.Entries) != 1 {
		t.Errorf("got %v, %v", d, err)
	}
	if st, err := f.StatFile(ctx, &gwpb.StatFileRequest{Ref: id, Path: "/name"}); err != nil || st.Stat.Size != 7 {
		t.Errorf("got %v, %v", st, err)
	}
	if _, err := f.Evaluate(ctx, &gwpb.EvaluateRequest{Ref: id}); err != nil {
		t.Error(err)
	}
	if _, err := f.Evaluate(ctx, nil); err != nil {
		t.Errorf("scratch: %v", err)
	}
	for name, ref := range map[string]string{"unknown": "ref-99", "scratch": "", "of another form": "ref-01"} {
		_, e1 := f.ReadFile(ctx, &gwpb.ReadFileRequest{Ref: ref})
		_, e2 := f.ReadDir(ctx, &gwpb.ReadDirRequest{Ref: ref})
		_, e3 := f.StatFile(ctx, &gwpb.StatFileRequest{Ref: ref})
		for _, err := range []error{e1, e2, e3} {
			if !cerrdefs.IsNotFound(err) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	}
	if _, err := f.Evaluate(ctx, &gwpb.EvaluateRequest{Ref: "ref-99"}); !cerrdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}

// Refs of one build are no refs of another.
func TestRefsBelongToTheirBuild(t *testing.T) {
	f, ctx, _ := start(t, gateway.Build{})
	id := solve(t, f, ctx, "mine")
	outer, cancel := context.WithCancel(t.Context())
	other := serve(outer, f, "other", gateway.Build{Bridge: &bridge{}})
	if _, err := f.ReadFile(call(t.Context(), "other"), &gwpb.ReadFileRequest{Ref: id, FilePath: "/name"}); !cerrdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	cancel()
	<-other
}

func TestInputsImagesWarnings(t *testing.T) {
	b := &bridge{}
	f, ctx, _ := start(t, gateway.Build{Bridge: b, Inputs: map[string]*pb.Definition{"base": define("in")}})
	in, err := f.Inputs(ctx, nil)
	if err != nil || string(in.Definitions["base"].Def[0]) != "in" {
		t.Errorf("got %v, %v", in, err)
	}
	img, err := f.ResolveImageConfig(ctx, &gwpb.ResolveImageConfigRequest{
		Ref: "a", Platform: &pb.Platform{OS: "linux", Architecture: "arm64"}, ResolveMode: "pull", LogName: "l", SessionID: "s", StoreID: "st",
	})
	if err != nil || img.Ref != "a" || img.Digest != digest.FromString("a").String() || string(img.Config) != "{}" {
		t.Errorf("got %v, %v", img, err)
	}
	if o := b.resolved[0]; o.Platform.Architecture != "arm64" || o.Mode != "pull" || o.LogName != "l" || *o.OCILayout != (frontend.OCILayout{SessionID: "s", StoreID: "st"}) {
		t.Errorf("asked for %+v", o)
	}
	if _, err := f.ResolveImageConfig(ctx, nil); err != nil || b.resolved[1].Platform != nil || b.resolved[1].OCILayout != nil {
		t.Errorf("got %v, asked for %+v", err, b.resolved[1])
	}
	if _, err := f.Warn(ctx, &gwpb.WarnRequest{Digest: "sha256:1", Level: 2, Short: []byte("s"), Detail: [][]byte{[]byte("d"), nil}, Url: "u", Ranges: []*pb.Range{nil}}); err != nil {
		t.Error(err)
	}
	if _, err := f.Warn(ctx, nil); err != nil {
		t.Error(err)
	}
	if w := b.warnings[0]; w.Vertex != "sha256:1" || w.Level != 2 || w.Short != "s" || !slices.Equal(w.Detail, []string{"d", ""}) || w.URL != "u" {
		t.Errorf("got %+v", w)
	}
}

func TestResolveSourceMeta(t *testing.T) {
	f, ctx, _ := start(t, gateway.Build{})
	src := &pb.SourceOp{Identifier: "docker-image://a"}
	got, err := f.ResolveSourceMeta(ctx, &gwpb.ResolveSourceMetaRequest{Source: src})
	if err != nil || got.Source != src || got.Image.Digest != "" {
		t.Errorf("got %v, %v", got, err)
	}
	ok, bad := &spb.Policy{Version: 1}, &spb.Policy{}
	got, err = f.ResolveSourceMeta(ctx, &gwpb.ResolveSourceMetaRequest{Source: src, SourcePolicies: []*spb.Policy{ok, ok}})
	if err != nil || got.Image.Digest != "2" {
		t.Errorf("under two policies: %v, %v", got, err)
	}
	for name, req := range map[string]*gwpb.ResolveSourceMetaRequest{
		"nil": nil, "empty": {}, "no kind": {Source: &pb.SourceOp{Identifier: "alpine"}}, "bad policy": {Source: src, SourcePolicies: []*spb.Policy{bad}},
	} {
		if _, err := f.ResolveSourceMeta(ctx, req); !cerrdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := f.Solve(ctx, &gwpb.SolveRequest{Definition: define("A"), SourcePolicies: []*spb.Policy{bad}}); !cerrdefs.IsInvalidArgument(err) {
		t.Errorf("solve under a bad policy: %v", err)
	}
}

// A capability that is announced twice or without being enabled confuses clients.
func TestCapabilities(t *testing.T) {
	f, ctx, _ := start(t, gateway.Build{})
	pong, err := f.Ping(ctx, &gwpb.PingRequest{})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, c := range slices.Concat(pong.FrontendAPICaps, pong.LLBCaps) {
		if seen[c.ID] || !c.Enabled || c.ID == "" {
			t.Errorf("%v", c)
		}
		seen[c.ID] = true
	}
	for _, id := range []string{"solve.base", "return", "returnmap", "readfile", "proto.refarray", "frontend.inputs", "gateway.solve.evaluate", "mergeop", "source.local.differ"} {
		if !seen[id] {
			t.Errorf("%s is not announced", id)
		}
	}
}
