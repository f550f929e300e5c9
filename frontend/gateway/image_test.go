package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/gateway"
	"github.com/dbuild/dbuild/frontend/gateway/client"
	apitypes "github.com/moby/buildkit/api/types"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/status"
)

// As a frontend, this test program does what the option "do" says.
const actAsFrontend = "DBUILD_TEST_FRONTEND"

// runFrontend is the main function of the test program where it is a frontend.
func runFrontend() int {
	ctx := context.Background()
	env := client.ParseEnvironment(os.Environ())
	cc, err := client.Dial(os.Stdin, os.Stdout)
	if err != nil {
		panic(err)
	}
	defer cc.Close()
	fmt.Fprintln(os.Stderr, "doing", env.Opts["do"])
	switch env.Opts["do"] {
	case "exit":
		return 0
	case "crash":
		fmt.Fprintln(os.Stderr, "something is wrong with me")
		return 3
	case "old":
		_, err := gwpb.NewLLBBridgeClient(cc).Solve(ctx, &gwpb.SolveRequest{
			Definition: define("A"), Final: true, ExporterAttr: []byte(`{"k":"dg=="}`),
		})
		if err != nil {
			panic(err)
		}
		return 0
	}
	if err := client.Run(ctx, cc, env, actor{env}, os.Stderr); err != nil {
		panic(err)
	}
	switch env.Opts["do"] {
	case "stay":
		select {}
	case "fail after return":
		return 9
	}
	return 0
}

type actor struct{ env client.Environment }

func (a actor) Solve(ctx context.Context, b frontend.Bridge, req *frontend.Request) (*frontend.Result, error) {
	switch req.Opts["do"] {
	case "error":
		err := errdefs.WithSource(errors.New("line 3 is odd"), &errdefs.Source{Info: &pb.SourceInfo{Filename: "Dockerfile"}})
		return nil, err
	case "nested":
		return b.SolveFrontend(ctx, "inner", &frontend.Request{Opts: map[string]string{"x": "y"}, Inputs: req.Inputs})
	case "platforms":
		res := &frontend.Result{Refs: map[string]frontend.Ref{"none": nil}, Metadata: map[string][]byte{}}
		for _, n := range []string{"A", "B"} {
			r, err := b.Solve(ctx, define(n))
			if err != nil {
				return nil, err
			}
			res.Refs[n] = r
		}
		return res, nil
	}
	r, err := b.Solve(ctx, define("A"))
	if err != nil {
		return nil, err
	}
	data, err := r.ReadFile(ctx, "/name", 0, 0)
	if err != nil {
		return nil, err
	}
	meta, err := b.ResolveImage(ctx, "base", frontend.ResolveOpt{Mode: "pull", Platform: &ocispec.Platform{OS: "linux", Architecture: "arm64"}})
	if err != nil {
		return nil, err
	}
	_, missing := r.ReadFile(ctx, "/other", 0, 0)
	b.Warn(ctx, frontend.Warning{Short: "careful", Detail: []string{"d"}})
	return &frontend.Result{Ref: r, Metadata: map[string][]byte{
		"data": data, "base": []byte(meta.Ref), "session": []byte(req.Session), "missing": fmt.Append(nil, errors.Is(missing, os.ErrNotExist)),
		"inputs": []byte(strings.Join(slices.Sorted(maps.Keys(req.Inputs)), ",")), "opt": []byte(req.Opts["multi=line"]),
		"platforms": fmt.Append(nil, len(b.Platforms())), "def": r.Definition().Def[0],
	}}, nil
}

// image runs a frontend image that is this test program.
func image(t *testing.T, b *bridge, req *frontend.Request, config ocispec.ImageConfig, more ...func(*gateway.ImagesConfig)) (*frontend.Result, error) {
	t.Helper()
	config.Entrypoint, config.Env = []string{os.Args[0]}, []string{actAsFrontend + "=1"}
	raw, err := json.Marshal(ocispec.Image{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	c := gateway.ImagesConfig{
		Find: func(_ context.Context, _ frontend.Bridge, _ *frontend.Request, name string) (*gateway.Image, error) {
			if name != "some/image" {
				return nil, cerrdefs.ErrNotFound.WithMessage("there is no such image")
			}
			return &gateway.Image{Definition: define("rootfs"), Config: raw}, nil
		},
		Builtin: func(name string) string {
			if name == "ours" {
				return "inner"
			}
			return ""
		},
		Workers: func() []*apitypes.WorkerRecord {
			return []*apitypes.WorkerRecord{{ID: "w", Platforms: []*pb.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "386"}}}}
		},
		Server: serverOptions,
	}
	for _, f := range more {
		f(&c)
	}
	f, err := gateway.NewImages(c)
	if err != nil {
		t.Fatal(err)
	}
	return f.Solve(t.Context(), b, req)
}

func asked(do string) *frontend.Request {
	return &frontend.Request{Session: "sess", Opts: map[string]string{"source": "some/image", "do": do, "multi=line": "a=b\nc"}}
}

func TestFrontendImage(t *testing.T) {
	b := &bridge{}
	req := asked("work")
	req.Inputs = map[string]*pb.Definition{"one": define("1"), "two": define("2")}
	res, err := image(t, b, req, ocispec.ImageConfig{Labels: map[string]string{
		"moby.buildkit.frontend.network.none": "true", "moby.buildkit.frontend.caps": "moby.buildkit.frontend.inputs",
	}})
	if err != nil {
		t.Fatal(err)
	}
	if nameOf(res.Ref) != "A" {
		t.Errorf("got %v", res.Ref)
	}
	for k, want := range map[string]string{
		"data": "A", "base": "base@" + digest.FromString("base").String(), "session": "sess", "missing": "true", "inputs": "one,two", "platforms": "2", "def": "A",
	} {
		if got := string(res.Metadata[k]); got != want {
			t.Errorf("%s is %q", k, got)
		}
	}
	if o := b.resolved[0]; o.Mode != "pull" || o.Platform.Architecture != "arm64" {
		t.Errorf("resolved %+v", o)
	}
	if len(b.warnings) != 1 || b.warnings[0].Short != "careful" {
		t.Errorf("warnings: %+v", b.warnings)
	}
	if got := b.log.String(); got != "doing work\n" {
		t.Errorf("log: %q", got)
	}
	h := b.host(t)
	if r := h.request; r.Network != pb.NetMode_NONE || nameOf(r.Mounts[0].Ref) != "rootfs" || r.Mounts[1].Dest != "/run/config/buildkit/metadata" ||
		!r.Mounts[1].Readonly || len(r.Mounts[1].Files["frontend.bin"]) == 0 {
		t.Errorf("container: %+v", r)
	}
	if !h.released {
		t.Error("the container is not released")
	}
}

func TestFrontendImageOutcomes(t *testing.T) {
	inner := func(_ context.Context, name string, r *frontend.Request) (*frontend.Result, error) {
		return &frontend.Result{Ref: &ref{name: name, def: define(name)}, Metadata: map[string][]byte{"x": []byte(r.Opts["x"] + r.Opts["cmdline"])}}, nil
	}
	t.Run("several platforms", func(t *testing.T) {
		res, err := image(t, &bridge{}, asked("platforms"), ocispec.ImageConfig{})
		if err != nil || nameOf(res.Refs["A"]) != "A" || nameOf(res.Refs["B"]) != "B" || len(res.Refs) != 3 || res.Refs["none"] != nil {
			t.Errorf("got %v, %v", res, err)
		}
	})
	t.Run("nested", func(t *testing.T) {
		res, err := image(t, &bridge{frontend: inner}, asked("nested"), ocispec.ImageConfig{})
		if err != nil || nameOf(res.Ref) != "inner" || string(res.Metadata["x"]) != "y" {
			t.Errorf("got %v, %v", res, err)
		}
	})
	t.Run("ours", func(t *testing.T) {
		res, err := image(t, &bridge{frontend: inner}, &frontend.Request{Opts: map[string]string{"source": "ours"}}, ocispec.ImageConfig{})
		if err != nil || nameOf(res.Ref) != "inner" || string(res.Metadata["x"]) != "ours" {
			t.Errorf("got %v, %v", res, err)
		}
	})
	t.Run("older than Return", func(t *testing.T) {
		res, err := image(t, &bridge{}, asked("old"), ocispec.ImageConfig{})
		if err != nil || nameOf(res.Ref) != "A" || string(res.Metadata["k"]) != "v" {
			t.Errorf("got %v, %v", res, err)
		}
	})
	t.Run("result before failure", func(t *testing.T) {
		res, err := image(t, &bridge{}, asked("fail after return"), ocispec.ImageConfig{})
		if err != nil || nameOf(res.Ref) != "A" {
			t.Errorf("got %v, %v", res, err)
		}
	})
	t.Run("stays", func(t *testing.T) {
		b := &bridge{}
		res, err := image(t, b, asked("stay"), ocispec.ImageConfig{})
		if err != nil || nameOf(res.Ref) != "A" || !b.host(t).released {
			t.Errorf("got %v, %v", res, err)
		}
	})
	t.Run("error", func(t *testing.T) {
		_, err := image(t, &bridge{}, asked("error"), ocispec.ImageConfig{})
		st := status.Convert(err)
		if st.Message() != "line 3 is odd" || len(st.Proto().Details) != 1 || !strings.HasSuffix(st.Proto().Details[0].TypeUrl, "errdefs.Source+json") {
			t.Errorf("got %v", st.Proto())
		}
	})
	for do, want := range map[string]string{
		"crash": "frontend some/image ended without a result: exit code: 3\ndoing crash\nsomething is wrong with me",
		"exit":  "frontend some/image ended without a result: it exited\ndoing exit",
	} {
		t.Run(do, func(t *testing.T) {
			if _, err := image(t, &bridge{}, asked(do), ocispec.ImageConfig{}); err == nil || err.Error() != want {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestRefusedFrontendImages(t *testing.T) {
	allow := func(names ...string) func(*gateway.ImagesConfig) {
		return func(c *gateway.ImagesConfig) { c.Allowed = names }
	}
	of := func(source string) *frontend.Request {
		return &frontend.Request{Opts: map[string]string{"source": source}}
	}
	var unsupported *errdefs.UnsupportedFrontendCapError
	cap := &frontend.Request{Opts: map[string]string{"source": "some/image", "frontend.caps": "a,b+forward"}}
	inputs := &frontend.Request{Opts: map[string]string{"source": "some/image"}, Inputs: map[string]*pb.Definition{"x": define("x")}}
	for name, tt := range map[string]struct {
		req  *frontend.Request
		caps string
		more func(*gateway.ImagesConfig)
		is   func(error) bool
	}{
		"no source":      {of(""), "", allow(), cerrdefs.IsInvalidArgument},
		"unknown":        {of("other/image"), "", allow(), cerrdefs.IsNotFound},
		"not allowed":    {of("some/image:tag"), "", allow("other/image", "some/image2"), cerrdefs.IsPermissionDenied},
		"not a name":     {of("A B"), "", allow("x"), cerrdefs.IsInvalidArgument},
		"allowed":        {of("alpine:3"), "", allow("docker.io/library/alpine:5"), cerrdefs.IsNotFound},
		"cap":            {cap, "a", allow(), func(err error) bool { return errors.As(err, &unsupported) && unsupported.FrontendCap.Name == "b" }},
		"implicit input": {inputs, "a", allow(), func(err error) bool { return errors.As(err, &unsupported) }},
	} {
		b := &bridge{}
		_, err := image(t, b, tt.req, ocispec.ImageConfig{Labels: map[string]string{"moby.buildkit.frontend.caps": tt.caps}}, tt.more)
		if !tt.is(err) {
			t.Errorf("%s: got %v", name, err)
		}
		if b.hosts != nil {
			t.Errorf("%s: it was run", name)
		}
	}
	if _, err := gateway.NewImages(gateway.ImagesConfig{Allowed: []string{"A B"}}); err == nil {
		t.Error("a repository that is none is not refused")
	}
}
