package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/worker"
	"github.com/dbuild/dbuild/worker/runc"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

var sourceFile = &pb.SourceInfo{Filename: "Dockerfile", Language: "Dockerfile", Data: []byte("FROM base\nRUN exit 7\n")}

// failing is a step that fails with status 7, at line 2.
func failing(t testing.TB) (*pb.Definition, digest.Digest) {
	def := marshal(t, sh(base(1), "echo some output; exit 7", llb.Meta{
		Name: "[2/2] RUN exit 7", Description: map[string]string{"k": "v"},
		Locations: []*llb.SourceLocation{{File: sourceFile, Ranges: []*pb.Range{{Start: &pb.Position{Line: 2}, End: &pb.Position{Line: 2}}}}},
	}))
	return def, digest.FromBytes(def.Def[len(def.Def)-2])
}

// A step that fails says which it is, where it comes from and how it ended, in the terms
// of the client's library, whichever way the build came.
func TestDetailsOfFailures(t *testing.T) {
	s := start(t)
	c := s.client()
	def, dgst := failing(t)
	through := func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
		return g.Solve(ctx, gateway.SolveRequest{Definition: def, Evaluate: true})
	}
	for name, build := range map[string]func() error{
		"definition": func() error {
			_, err := s.raw(&controlapi.SolveRequest{Ref: "raw", Definition: def})
			return err
		},
		"gateway": func() error {
			_, err := c.Build(t.Context(), client.SolveOpt{}, "test", through, nil)
			return err
		},
		"gateway, lazily": func() error {
			_, err := c.Build(t.Context(), client.SolveOpt{}, "test", func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
				return g.Solve(ctx, gateway.SolveRequest{Definition: def})
			}, nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := build()
			if err == nil {
				t.Fatal("should fail")
			}
			if want := `process "/bin/sh -c echo some output; exit 7" did not complete successfully: exit code: 7`; !strings.HasSuffix(err.Error(), want) || strings.Contains(err.Error(), "rpc error") {
				t.Errorf("got %q", err)
			}
			var vertex *errdefs.VertexError
			if !errors.As(err, &vertex) || vertex.Digest != string(dgst) {
				t.Errorf("vertex: %+v", vertex)
			}
			sources := errdefs.Sources(err)
			if len(sources) == 0 || sources[0].Info.Filename != "Dockerfile" || string(sources[0].Info.Data) != string(sourceFile.Data) || sources[0].Ranges[0].Start.Line != 2 {
				t.Errorf("sources: %+v", sources)
			}
			var solve *errdefs.SolveError
			if !errors.As(err, &solve) || solve.Op.GetExec() == nil || solve.Description["k"] != "v" {
				t.Errorf("solve: %+v", solve)
			}
			var exit *gwpb.ExitError
			if !errors.As(err, &exit) || exit.ExitCode != 7 {
				t.Errorf("exit: %+v", exit)
			}
		})
	}
}

// raw sends a request as is, and decodes its error as the client's library does.
func (s *server) raw(req *controlapi.SolveRequest) (*controlapi.SolveResponse, error) {
	c := s.client()
	return c.ControlClient().Solve(s.t.Context(), req)
}

// What the client's own frontend fails with comes back as it was.
func TestErrorOfTheClientsFrontend(t *testing.T) {
	s := start(t)
	_, err := s.client().Build(t.Context(), client.SolveOpt{}, "test", func(context.Context, gateway.Client) (*gateway.Result, error) {
		return nil, errors.New("I do not like this Dockerfile")
	}, nil)
	if err == nil || !strings.Contains(err.Error(), "I do not like this Dockerfile") || strings.Contains(err.Error(), "rpc error") {
		t.Errorf("got %v", err)
	}
	// A panic of it is its own, and the daemon does not mind a result that makes no sense.
	_, err = s.client().Build(t.Context(), client.SolveOpt{}, "test", func(context.Context, gateway.Client) (*gateway.Result, error) {
		return &gateway.Result{Refs: map[string]gateway.Reference{"linux/amd64": nil}}, nil
	}, nil)
	if err != nil {
		t.Errorf("a result for one platform, not exported: %v", err)
	}
	_, err = s.client().Build(t.Context(), client.SolveOpt{Exports: []client.ExportEntry{{Type: "cacheonly"}}}, "test", func(context.Context, gateway.Client) (*gateway.Result, error) {
		return &gateway.Result{Refs: map[string]gateway.Reference{"linux/amd64": nil}}, nil
	}, nil)
	if err == nil || !strings.Contains(err.Error(), "without saying which") {
		t.Errorf("got %v", err)
	}
}

type panicking struct{}

func (panicking) Solve(context.Context, frontend.Bridge, *frontend.Request) (*frontend.Result, error) {
	var m map[string]int
	m["x"]++ //nolint:staticcheck // the panic is what is tested
	return nil, nil
}

// A mistake of ours ends one request, and leaves its trace in the log only.
func TestPanics(t *testing.T) {
	s := start(t)
	s.frontends["panicking"] = panicking{}
	c, bridge := s.control(), gwpb.NewLLBBridgeClient(s.conn())
	check := func(err error) {
		t.Helper()
		if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "internal error") || strings.Contains(err.Error(), "goroutine") {
			t.Errorf("got %v", err)
		}
	}
	_, err := c.Solve(t.Context(), &controlapi.SolveRequest{Ref: "a", Frontend: "panicking"})
	check(err)
	if s.running("a") {
		t.Error("the build goes on")
	}
	if st := read(c.Status(t.Context(), &controlapi.StatusRequest{Ref: "a"})); st.err != nil {
		t.Error(st.err)
	}
	// A call through the gateway, which leaves the build as it is.
	build := solve(t.Context(), c, &controlapi.SolveRequest{Ref: "b"})
	_, err = bridge.Solve(calls(t.Context(), "b"), &gwpb.SolveRequest{Frontend: "panicking"})
	check(err)
	_, err = bridge.Return(calls(t.Context(), "b"), &gwpb.ReturnRequest{})
	must(t, err)
	if r := wait(t, build); r.err != nil {
		t.Error(r.err)
	}
	err = s.streamErrors(nil, nil, &grpc.StreamServerInfo{FullMethod: "/x"}, func(any, grpc.ServerStream) error { panic("stream") })
	check(err)
	check(s.guard("a cache", func() error { panic("cache") }))
	if log := s.log.String(); strings.Count(log, "msg=panic") != 4 || !strings.Contains(log, "goroutine") || !strings.Contains(log, "method=/x") {
		t.Errorf("the log lacks a trace: %s", log)
	}
}

func TestStatusOfErrors(t *testing.T) {
	inner := status.New(codes.PermissionDenied, "denied")
	inner, err := inner.WithDetails(&gwpb.ExitMessage{Code: 3})
	must(t, err)
	for name, tt := range map[string]struct {
		err  error
		code codes.Code
		msg  string
		urls string
	}{
		"plain":                 {errors.New("x"), codes.Unknown, "x", ""},
		"canceled":              {fmt.Errorf("step: %w", context.Canceled), codes.Canceled, "step: context canceled", ""},
		"deadline":              {context.DeadlineExceeded, codes.DeadlineExceeded, "context deadline exceeded", ""},
		"disk full":             {fmt.Errorf("write: %w", unix.ENOSPC), codes.ResourceExhausted, "write: no space left on device", ""},
		"not found":             {cerrdefs.ErrNotFound.WithMessage("no x"), codes.NotFound, "no x", ""},
		"over gRPC":             {fmt.Errorf("client: %w", inner.Err()), codes.PermissionDenied, "client: denied", "type.googleapis.com/moby.buildkit.v1.frontend.ExitMessage"},
		"several":               {errors.Join(&runc.ExitError{Code: 1}, cerrdefs.ErrUnavailable), codes.Unavailable, "exit code: 1\nunavailable", "github.com/moby/buildkit/gatewayapi.ExitMessage+json"},
		"vertex":                {errdefs.WrapVertex(&runc.ExitError{Code: 1}, digest.FromString("v")), codes.Unknown, "exit code: 1", "github.com/moby/buildkit/gatewayapi.ExitMessage+json github.com/moby/buildkit/errdefs.Vertex+json"},
		"subrequest":            {errdefs.NewUnsupportedSubrequestError("x"), codes.Unimplemented, "unsupported request x", "github.com/moby/buildkit/errdefs.Subrequest+json"},
		"capability":            {errdefs.NewUnsupportedFrontendCapError("x"), codes.Unimplemented, "unsupported frontend capability x", "github.com/moby/buildkit/errdefs.FrontendCap+json"},
		"missing file":          {fmt.Errorf("step: %w", &worker.MissingError{Path: "/x"}), codes.Unknown, `step: failed to compute cache key: failed to calculate checksum of ref input: "/x": not found`, "type.googleapis.com/google.rpc.ErrorInfo"},
		"missing and explained": {&worker.MissingError{Path: "/x", Reads: llb.Reads{Keyword: "COPY", Place: "stage 0"}, Hint: "it is empty"}, codes.Unknown, `failed to compute cache key: failed to calculate checksum of ref input: "/x": not found: COPY: "/x" is not in stage 0; it is empty`, "type.googleapis.com/google.rpc.ErrorInfo"},
		"missing when copying":  {&worker.MissingError{Path: "/x", Hint: "did you mean y?", Copying: true}, codes.Unknown, "lstat /x: no such file or directory (did you mean y?)", "type.googleapis.com/google.rpc.ErrorInfo"},
		"not in UTF-8":          {errors.New("file \xff"), codes.Unknown, "file \uFFFD", ""},
	} {
		st := status.Convert(toStatus(tt.err))
		var urls []string
		for _, d := range st.Proto().Details {
			urls = append(urls, d.TypeUrl)
			if _, err := typeurl.UnmarshalAny(d); err != nil && strings.HasPrefix(d.TypeUrl, "github.com") {
				t.Errorf("%s: %v", name, err)
			}
		}
		// Where there is more to say than the message, it begins with a stack.
		if len(urls) > 0 && urls[0] == "github.com/moby/buildkit/stack.Stack+json" && tt.urls != "" {
			urls = urls[1:]
		} else if len(urls) > 0 && !strings.HasSuffix(urls[0], "ErrorInfo") {
			t.Errorf("%s: no stack", name)
		}
		if st.Code() != tt.code || st.Message() != tt.msg || strings.Join(urls, " ") != tt.urls {
			t.Errorf("%s: got %s %q %q", name, st.Code(), st.Message(), urls)
		}
	}
	if toStatus(nil) != nil {
		t.Error("no error is one")
	}
}

// Names of files may be any bytes; messages may not.
func TestStatusMessagesAreValid(t *testing.T) {
	d := digest.FromString("x")
	msgs := statusResponses([]progress.Event{
		{Digest: d, Vertex: &progress.VertexState{Vertex: progress.Vertex{Digest: d, Name: "n\xff"}, Error: "e\xff"}},
		{Digest: d, Status: &progress.Status{ID: "s\xff"}},
		{Digest: d, Output: &progress.Output{Stream: 1, Data: []byte("o\xff")}},
		{Digest: d, Warning: &progress.Warning{Short: []byte("w\xff")}},
	})
	for _, m := range msgs {
		if _, err := m.MarshalVT(); err != nil {
			t.Error(err)
		}
		if v := m.Vertexes[0]; v.Name != "n\uFFFD" || v.Error != "e\uFFFD" || m.Statuses[0].ID != "s\uFFFD" || string(m.Logs[0].Msg) != "o\xff" {
			t.Errorf("got %v", m)
		}
	}
	// However much a step prints, a message stays within what may be sent.
	var events []progress.Event
	for range 64 {
		events = append(events, progress.Event{Digest: d, Output: &progress.Output{Data: make([]byte, 256<<10)}})
	}
	msgs = statusResponses(events)
	n := 0
	for _, m := range msgs {
		if m.SizeVT() > 2<<20 {
			t.Errorf("a message of %d bytes", m.SizeVT())
		}
		n += len(m.Logs)
	}
	if n != len(events) || len(msgs) < 8 {
		t.Errorf("%d pieces in %d messages", n, len(msgs))
	}
}

// Clients compare their clock with the header of the stream.
func TestStatusSaysTheTime(t *testing.T) {
	s := start(t)
	c := s.control()
	_, err := c.Solve(t.Context(), &controlapi.SolveRequest{Ref: "b", Definition: marshal(t, tiny("x"))})
	must(t, err)
	for _, open := range []func() (grpc.ClientStream, error){
		func() (grpc.ClientStream, error) { return c.Status(t.Context(), &controlapi.StatusRequest{Ref: "b"}) },
		func() (grpc.ClientStream, error) {
			return c.ListenBuildHistory(t.Context(), &controlapi.BuildHistoryRequest{EarlyExit: true})
		},
	} {
		stream, err := open()
		must(t, err)
		var md metadata.MD
		md, err = stream.Header()
		if err != nil || len(md.Get("buildkit-current-timestamp")) != 1 {
			t.Errorf("got %v, %v", md, err)
		}
		for stream.RecvMsg(new(controlapi.StatusResponse)) == nil {
		}
	}
}

// passOn is a frontend of the client that returns the result of a definition.
func passOn(def *pb.Definition) gateway.BuildFunc {
	return func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		return c.Solve(ctx, gateway.SolveRequest{Definition: def})
	}
}
