package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// A fakeDaemon answers the control API with what a test wants.
type fakeDaemon struct {
	controlapi.UnimplementedControlServer
	pkg    string
	solved chan *controlapi.SolveRequest
	resp   map[string]string
	err    error
	block  bool // until the client gives up
	status []*controlapi.StatusResponse
	pruned chan *controlapi.PruneRequest
	usage  []*controlapi.UsageRecord
}

func (d *fakeDaemon) Info(context.Context, *controlapi.InfoRequest) (*controlapi.InfoResponse, error) {
	return &controlapi.InfoResponse{BuildkitVersion: &apitypes.BuildkitVersion{Package: d.pkg, Version: "v9"}}, nil
}

func (d *fakeDaemon) Solve(ctx context.Context, req *controlapi.SolveRequest) (*controlapi.SolveResponse, error) {
	d.solved <- req
	if d.block {
		<-ctx.Done()
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if d.err != nil {
		return nil, d.err
	}
	return &controlapi.SolveResponse{ExporterResponse: d.resp}, nil
}

func (d *fakeDaemon) Status(_ *controlapi.StatusRequest, srv controlapi.Control_StatusServer) error {
	for _, s := range d.status {
		if err := srv.Send(s); err != nil {
			return err
		}
	}
	return nil
}

func (d *fakeDaemon) Session(srv controlapi.Control_SessionServer) error {
	for { // until the client hangs up
		if _, err := srv.Recv(); err != nil {
			return nil
		}
	}
}

func (d *fakeDaemon) ListWorkers(context.Context, *controlapi.ListWorkersRequest) (*controlapi.ListWorkersResponse, error) {
	return &controlapi.ListWorkersResponse{Record: []*apitypes.WorkerRecord{{
		ID: "w1", Labels: map[string]string{hostGatewayLabel: "10.1.2.3"},
		Platforms: []*pb.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm", Variant: "v7"}},
	}}}, nil
}

func (d *fakeDaemon) DiskUsage(context.Context, *controlapi.DiskUsageRequest) (*controlapi.DiskUsageResponse, error) {
	return &controlapi.DiskUsageResponse{Record: d.usage}, nil
}

func (d *fakeDaemon) Prune(req *controlapi.PruneRequest, srv controlapi.Control_PruneServer) error {
	d.pruned <- req
	for _, u := range d.usage {
		if err := srv.Send(u); err != nil {
			return err
		}
	}
	return nil
}

// serve starts d and returns a way to run command lines against it.
func serve(t *testing.T, d *fakeDaemon) func(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	d.solved, d.pruned = make(chan *controlapi.SolveRequest, 1), make(chan *controlapi.PruneRequest, 1)
	sock := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	controlapi.RegisterControlServer(srv, d)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		<-ended
	})
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	return func(ctx context.Context, args ...string) (int, string, string) {
		var stdout, stderr bytes.Buffer
		a := &app{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, lookup: env(map[string]string{"DBUILD_HOST": "unix://" + sock})}
		code := a.execute(ctx, args)
		return code, stdout.String(), stderr.String()
	}
}

// inContext makes a directory with a Dockerfile the working directory.
func inContext(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	return dir
}

func TestBuildSendsOneRequest(t *testing.T) {
	inContext(t)
	desc := base64.StdEncoding.EncodeToString([]byte(`{"size":3}`))
	d := &fakeDaemon{pkg: daemonPackage, resp: map[string]string{keyDigest: "sha256:m", keyConfigDigest: "sha256:c", "containerimage.descriptor": desc}}
	run := serve(t, d)
	code, stdout, stderr := run(t.Context(), "-q", "--iidfile", "id", "--metadata-file", "md", "-t", "app", "--build-arg", "A=b",
		"--add-host", "h:host-gateway", "--provenance=true", "--allow", "security.insecure", "--cache-to", "type=inline", ".")
	if code != 0 || stdout != "sha256:c\n" {
		t.Fatalf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	req := <-d.solved
	if req.Frontend != "dockerfile.v0" || req.Definition != nil || req.Session == "" || req.Ref == "" {
		t.Errorf("frontend %q, session %q, ref %q", req.Frontend, req.Session, req.Ref)
	}
	if len(req.Exporters) != 1 || req.Exporters[0].Type != "image" || req.Exporters[0].Attrs["name"] != "docker.io/library/app:latest" {
		t.Errorf("exporters %v", req.Exporters)
	}
	a := req.FrontendAttrs
	if a["build-arg:A"] != "b" || a["add-hosts"] != "h=10.1.2.3" || a["filename"] != "Dockerfile" {
		t.Errorf("attrs %v", a)
	}
	if v, ok := a["attest:provenance"]; !ok || v != "" {
		t.Errorf("attestations: %v", a)
	}
	if len(req.Entitlements) != 1 || len(req.Cache.Exports) != 1 {
		t.Errorf("entitlements %v, cache %v", req.Entitlements, req.Cache)
	}
	if b, _ := os.ReadFile("id"); string(b) != "sha256:c" {
		t.Errorf("iidfile %q", b)
	}
	if b, _ := os.ReadFile("md"); !strings.Contains(string(b), `"size": 3`) {
		t.Errorf("metadata %s", b)
	}
}

func TestFailuresLeaveNothing(t *testing.T) {
	for _, tc := range []struct {
		name string
		err  error
		want int
	}{
		{"step", status.Error(codes.Unknown, "exit code: 3"), exitOther},
		{"internal", status.Error(codes.Internal, "oops"), exitInternal},
		{"disk", status.Error(codes.ResourceExhausted, "disk full"), exitResources},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inContext(t)
			for _, f := range []string{"id", "md"} {
				if err := os.WriteFile(f, []byte("stale"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			run := serve(t, &fakeDaemon{err: tc.err})
			code, stdout, stderr := run(t.Context(), "--iidfile", "id", "--metadata-file", "md", "-t", "app", "-o", "type=oci,dest=out.tar", ".")
			if code != tc.want || stdout != "" {
				t.Errorf("exit %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			if !strings.Contains(stderr, "dbuild: "+status.Convert(tc.err).Message()) {
				t.Errorf("stderr %q", stderr)
			}
			entries, err := os.ReadDir(".")
			if err != nil || len(entries) != 1 {
				t.Errorf("left: %v %v", entries, err)
			}
		})
	}
}

func TestNoImageIsAnErrorForIIDFile(t *testing.T) {
	inContext(t)
	run := serve(t, &fakeDaemon{})
	code, _, stderr := run(t.Context(), "--iidfile", "id", ".")
	if code != exitOther || !strings.Contains(stderr, "no image ID") {
		t.Errorf("exit %d, %s", code, stderr)
	}
	if _, err := os.Stat("id"); err == nil {
		t.Error("a file without an id")
	}
}

func TestCancelEndsTheBuild(t *testing.T) {
	inContext(t)
	d := &fakeDaemon{block: true}
	run := serve(t, d)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-d.solved
		cancel()
	}()
	code, _, stderr := run(ctx, "-t", "app", ".")
	if code != exitCanceled || !strings.Contains(stderr, "dbuild: canceled") {
		t.Errorf("exit %d, %s", code, stderr)
	}
}

func TestQuietFailureShowsTheLog(t *testing.T) {
	inContext(t)
	now := timestamppb.New(time.Unix(1, 0))
	d := &fakeDaemon{
		err: status.Error(codes.Unknown, "exit code: 3"),
		status: []*controlapi.StatusResponse{{
			Vertexes: []*controlapi.Vertex{
				{Digest: "sha256:a", Name: "RUN good", Started: now, Completed: now},
				{Digest: "sha256:b", Name: "RUN bad", Started: now, Completed: now, Error: "exit code: 3"},
				{Digest: "sha256:c", Name: "RUN other", Started: now, Completed: now, Error: "x: context canceled"},
			},
			Logs: []*controlapi.VertexLog{
				{Vertex: "sha256:a", Msg: []byte("fine\n"), Timestamp: now},
				{Vertex: "sha256:b", Msg: []byte(strings.Repeat("line\n", 20) + "the rea"), Timestamp: now},
				{Vertex: "sha256:b", Msg: []byte("son\n"), Timestamp: now},
				{Vertex: "sha256:c", Msg: []byte("innocent\n"), Timestamp: now},
			},
		}},
	}
	_, _, stderr := serve(t, d)(t.Context(), "-q", ".")
	want := "------\n > RUN bad:\n" + strings.Repeat("line\n", 9) + "the reason\n------\n"
	if !strings.Contains(stderr, want) || strings.Contains(stderr, "innocent") || strings.Contains(stderr, "fine") {
		t.Errorf("stderr %q", stderr)
	}
}

func TestWarningsAreSummedUp(t *testing.T) {
	inContext(t)
	d := &fakeDaemon{status: []*controlapi.StatusResponse{{Warnings: []*controlapi.VertexWarning{
		{Vertex: "sha256:a", Short: []byte("Rule: text (line 3)"), Detail: [][]byte{[]byte("much more")}},
	}}}}
	run := serve(t, d)
	if _, _, stderr := run(t.Context(), "-t", "a", "."); !strings.Contains(stderr, "\n 1 warning found (use -D to expand):\n - Rule: text (line 3)\n") {
		t.Errorf("stderr %q", stderr)
	}
	<-d.solved
	if _, _, stderr := run(t.Context(), "-D", "-t", "a", "."); !strings.Contains(stderr, "much more") {
		t.Errorf("stderr %q", stderr)
	}
}

func TestRemainsInCacheIsSaidOnce(t *testing.T) {
	inContext(t)
	d := &fakeDaemon{}
	run := serve(t, d)
	_, _, stderr := run(t.Context(), ".")
	if strings.Count(stderr, "stays in the build cache") != 1 {
		t.Errorf("stderr %q", stderr)
	}
	if req := <-d.solved; len(req.Exporters) != 0 {
		t.Errorf("exporters %v", req.Exporters)
	}
	if _, _, stderr = run(t.Context(), "-o", "type=cacheonly", "."); strings.Contains(stderr, "stays") {
		t.Errorf("stderr %q", stderr)
	}
}

// What can be known without a daemon is said without one.
func TestMistakesNeedNoDaemon(t *testing.T) {
	inContext(t)
	for _, tc := range []struct {
		args, says string
		code       int
	}{
		{"", "\"dbuild .\"", exitConfig},
		{"a b", "not 2", exitConfig},
		{"biuld .", "did you mean \"dbuild build\"?", exitConfig},
		{"prun", "did you mean \"dbuild prune\"?", exitConfig},
		{"nothere", "no such directory: nothere", exitConfig},
		{"--tagret x .", "did you mean --target?", exitConfig},
		{"--qqqqqqq .", "--help", exitConfig},
		{"-Z .", "unknown flag -Z", exitConfig},
		{"--target", "--target", exitConfig},
		{"--progress plian .", "did you mean plain?", exitConfig},
		{"--network x .", "x", exitConfig},
		{"-f nothere .", "no such Dockerfile", exitConfig},
		{"--iidfile no/such/id .", "no such directory", exitOther},
		{"--addr foo://x .", "not an address", exitConfig},
		{"du x", "unexpected argument", exitConfig},
		{"du --filter a=b", "unknown key", exitConfig},
		{"prune --keep-duration x", "not a duration", exitConfig},
		{"prune --max-used-space x", "not a size", exitConfig},
		{"du --format {{", "--format", exitConfig},
		{"daemon --log-format x", "text or json", exitConfig},
	} {
		t.Run(tc.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			a := &app{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, lookup: env(map[string]string{"DBUILD_HOST": "unix:///no/such/socket"})}
			code := a.execute(t.Context(), strings.Fields(tc.args))
			if code != tc.code || !strings.Contains(stderr.String(), tc.says) || stdout.Len() > 0 {
				t.Errorf("exit %d, stdout %q, stderr %q", code, stdout.String(), stderr.String())
			}
			if strings.Contains(stderr.String(), "no daemon answers") {
				t.Error("a daemon was contacted")
			}
		})
	}
}

func TestCompletion(t *testing.T) {
	for args, want := range map[string]string{
		"__complete --progress p":             "plain\n",
		"__complete build --output type=o":    "type=oci\n",
		"__complete --network h":              "host\n",
		"__complete prune --filter type=exec": "type=exec.cachemount\n",
		"__complete --plat":                   "--platform",
		"__complete debug dump-":              "dump-llb",
		"completion bash":                     "bash completion",
		"completion zsh":                      "#compdef dbuild",
		"completion fish":                     "fish completion",
		"completion powershell":               "powershell completion",
	} {
		var stdout, stderr bytes.Buffer
		a := &app{stdout: &stdout, stderr: &stderr, lookup: env(nil)}
		if code := a.execute(t.Context(), strings.Fields(args)); code != 0 || !strings.Contains(stdout.String(), want) {
			t.Errorf("%s: exit %d, %q", args, code, stdout.String())
		}
	}
}

func TestUnreachableDaemon(t *testing.T) {
	inContext(t)
	var stderr bytes.Buffer
	a := &app{stderr: &stderr, lookup: env(map[string]string{"DBUILD_HOST": "unix:///no/such/socket"})}
	code := a.execute(t.Context(), []string{"-t", "a", "."})
	want := "dbuild: no daemon answers at unix:///no/such/socket (from DBUILD_HOST): no such file or directory\n"
	if code != exitNetwork || !strings.HasPrefix(stderr.String(), want) {
		t.Errorf("exit %d, %q", code, stderr.String())
	}
}

func TestVersion(t *testing.T) {
	_, stdout, _ := serve(t, &fakeDaemon{pkg: "p"})(t.Context(), "version")
	if !strings.Contains(stdout, "dbuild "+version()) || !strings.Contains(stdout, "daemon p v9") {
		t.Errorf("%q", stdout)
	}
}

func TestSourcePolicyIsNotIgnored(t *testing.T) {
	inContext(t)
	if err := os.WriteFile("policy", []byte(`{"rules":[{"action":"DENY","selector":{"identifier":"x"}}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &app{lookup: env(map[string]string{"EXPERIMENTAL_BUILDKIT_SOURCE_POLICY": "policy"})}
	if p, err := a.sourcePolicy(); err != nil || len(p.GetRules()) != 1 {
		t.Errorf("%v %v", p, err)
	}
	a = &app{lookup: env(map[string]string{"EXPERIMENTAL_BUILDKIT_SOURCE_POLICY": "missing"})}
	if _, err := a.sourcePolicy(); err == nil {
		t.Error("a policy that is not there is ignored")
	}
}
