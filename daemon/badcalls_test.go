package daemon

import (
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/dbuild/dbuild/llb"
	controlapi "github.com/moby/buildkit/api/services/control"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// drain reads a stream until it fails.
func drain[T any](s grpc.ServerStreamingClient[T], err error) error {
	for err == nil {
		_, err = s.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// badCalls are calls other than Solve that must be refused, by what is wrong with them.
// The build "b" has the container "c" of one mount.
func badCalls(s *server) map[string]func(context.Context) error {
	cc := s.conn()
	control, content, g := controlapi.NewControlClient(cc), contentapi.NewContentClient(cc), gwpb.NewLLBBridgeClient(cc)
	none := "sha256:" + strings.Repeat("0", 64)
	out := map[string]func(context.Context) error{
		"spans without collector": func(ctx context.Context) error {
			_, err := collectorpb.NewTraceServiceClient(cc).Export(ctx, clientSpans)
			return err
		},
		"listing with a bad filter": func(ctx context.Context) error {
			return drain(content.List(ctx, &contentapi.ListContentRequest{Filters: []string{"~="}}))
		},
		"negative range of nothing": func(ctx context.Context) error {
			return drain(content.Read(ctx, &contentapi.ReadContentRequest{Digest: none, Offset: math.MinInt64, Size: math.MinInt64}))
		},
		"status of a path": func(ctx context.Context) error {
			_, err := content.Status(ctx, &contentapi.StatusRequest{Ref: "../x"})
			return err
		},
		"write": func(ctx context.Context) error {
			w, err := content.Write(ctx)
			if err != nil {
				return err
			}
			_ = w.Send(&contentapi.WriteContentRequest{Action: 99, Total: -1, Offset: -1}) // it may be refused already
			_, err = w.Recv()
			return err
		},
		"history with a bad filter": func(ctx context.Context) error {
			return drain(control.ListenBuildHistory(ctx, &controlapi.BuildHistoryRequest{Filter: []string{"startedAt>never"}}))
		},
		"history with a negative limit": func(ctx context.Context) error {
			return drain(control.ListenBuildHistory(ctx, &controlapi.BuildHistoryRequest{Limit: math.MinInt32}))
		},
		"usage with a bad filter": func(ctx context.Context) error {
			_, err := control.DiskUsage(ctx, &controlapi.DiskUsageRequest{Filter: []string{"~="}})
			return err
		},
		"prune with a bad filter": func(ctx context.Context) error {
			return drain(control.Prune(ctx, &controlapi.PruneRequest{Filter: []string{"~="}}))
		},
		"prune with a negative age": func(ctx context.Context) error {
			return drain(control.Prune(ctx, &controlapi.PruneRequest{KeepDuration: math.MinInt64, Filter: []string{"id=="}}))
		},
		"gateway call of no build": func(ctx context.Context) error {
			_, err := g.Ping(ctx, nil)
			return err
		},
	}
	for what, d := range map[string]string{"nothing": "", "a path": "../x", "a path as digest": "sha256:../../../x", "an unknown algorithm": "md5:0", "what is not there": none} {
		out["info of "+what] = func(ctx context.Context) error {
			_, err := content.Info(ctx, &contentapi.InfoRequest{Digest: d})
			return err
		}
		out["reading of "+what] = func(ctx context.Context) error {
			return drain(content.Read(ctx, &contentapi.ReadContentRequest{Digest: d, Offset: -1}))
		}
		out["update of "+what] = func(ctx context.Context) error {
			req := &contentapi.UpdateRequest{Info: &contentapi.Info{Digest: d}}
			if d == "" {
				req.Info = nil
			}
			_, err := content.Update(ctx, req)
			return err
		}
		out["deletion of "+what] = func(ctx context.Context) error {
			_, err := content.Delete(ctx, &contentapi.DeleteContentRequest{Digest: d})
			return err
		}
		out["abortion of "+what] = func(ctx context.Context) error {
			_, err := content.Abort(ctx, &contentapi.AbortRequest{Ref: d})
			return err
		}
		out["record of "+what] = func(ctx context.Context) error {
			_, err := control.UpdateBuildHistory(ctx, &controlapi.UpdateBuildHistoryRequest{Ref: d, Pinned: true})
			return err
		}
		out["file of container "+what] = func(ctx context.Context) error {
			_, err := g.ReadFileContainer(calls(ctx, "b"), &gwpb.ReadFileRequest{Ref: d})
			return err
		}
		out["release of container "+what] = func(ctx context.Context) error {
			_, err := g.ReleaseContainer(calls(ctx, "b"), &gwpb.ReleaseContainerRequest{ContainerID: d})
			return err
		}
		out["process in container "+what] = func(ctx context.Context) error {
			return execute(ctx, g, &gwpb.ExecMessage{ProcessID: "p", Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{ContainerID: d, Meta: &pb.Meta{Args: []string{"x"}}}}})
		}
	}
	for what, req := range map[string]*gwpb.NewContainerRequest{
		"nothing":         nil,
		"no mounts":       {ContainerID: "d"},
		"a path":          {ContainerID: "../d", Mounts: []*pb.Mount{{Dest: "/"}}},
		"its id again":    {ContainerID: "c", Mounts: []*pb.Mount{{Dest: "/"}}},
		"unknown mount":   {ContainerID: "d", Mounts: []*pb.Mount{{Dest: "/"}, {Dest: "/x", MountType: 99}}},
		"unknown network": {ContainerID: "d", Mounts: []*pb.Mount{{Dest: "/"}}, Network: 99},
		"unknown result":  {ContainerID: "d", Mounts: []*pb.Mount{{Dest: "/", ResultID: "../ref-1"}}},
		"a bad host":      {ContainerID: "d", Mounts: []*pb.Mount{{Dest: "/"}}, ExtraHosts: []*pb.HostIP{{Host: "x", IP: "300.0.0.1"}}},
	} {
		out["container of "+what] = func(ctx context.Context) error {
			_, err := g.NewContainer(calls(ctx, "b"), req)
			return err
		}
	}
	for what, msg := range map[string]*gwpb.ExecMessage{
		"nothing":    {},
		"no init":    {ProcessID: "p", Input: &gwpb.ExecMessage_Init{}},
		"no process": {ProcessID: "p", Input: &gwpb.ExecMessage_Signal{Signal: &gwpb.SignalMessage{Name: "KILL"}}},
		"bad stream": {ProcessID: "p", Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{ContainerID: "c", Meta: &pb.Meta{Args: []string{"x"}}, Fds: []uint32{math.MaxUint32}}}},
	} {
		out["process of "+what] = func(ctx context.Context) error { return execute(ctx, g, msg) }
	}
	for what, req := range map[string]*gwpb.ReadFileRequest{
		"a negative offset": {Ref: "c", FilePath: "/name", Range: &gwpb.FileRange{Offset: -1}},
		"a negative length": {Ref: "c", FilePath: "/name", Range: &gwpb.FileRange{Length: math.MinInt64}},
		"a negative mount":  {Ref: "c", FilePath: "/name", MountIndex: -1},
		"a high mount":      {Ref: "c", FilePath: "/name", MountIndex: math.MaxInt32},
		"a path outside":    {Ref: "c", FilePath: "../../etc/passwd"},
	} {
		out["file at "+what] = func(ctx context.Context) error {
			_, err := g.ReadFileContainer(calls(ctx, "b"), req)
			return err
		}
	}
	return out
}

// execute says one thing about a process, and returns how the stream ends.
func execute(ctx context.Context, g gwpb.LLBBridgeClient, msg *gwpb.ExecMessage) error {
	p, err := g.ExecProcess(calls(ctx, "b"))
	if err != nil {
		return err
	}
	_ = p.Send(msg) // the answer says more
	for err == nil {
		_, err = p.Recv()
	}
	return err
}

// As TestBadRequests, for all the other calls.
func TestBadCalls(t *testing.T) {
	s := start(t)
	ordinary := solve(t.Context(), s.control(), &controlapi.SolveRequest{Ref: "ordinary", Definition: marshal(t, sh(base(1), "/bin/busybox sleep 87655 || true", llb.Meta{}))})
	pid := process(t, "sleep", "87655")
	// A build whose frontend is the client.
	ctx, cancel := context.WithCancel(t.Context())
	remote := solve(ctx, s.control(), &controlapi.SolveRequest{Ref: "b"})
	g := gwpb.NewLLBBridgeClient(s.conn())
	resp, err := g.Solve(calls(ctx, "b"), &gwpb.SolveRequest{Definition: marshal(t, tiny("x")), AllowResultReturn: true, AllowResultArrayRef: true})
	must(t, err)
	_, err = g.NewContainer(calls(ctx, "b"), &gwpb.NewContainerRequest{ContainerID: "c", Mounts: []*pb.Mount{{Dest: "/", ResultID: resp.Result.GetRef().GetId()}}})
	must(t, err)

	for name, call := range badCalls(s) {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := call(ctx)
			if err == nil {
				t.Fatal("answered")
			}
			clean(t, err)
		})
	}
	// They have left the container as it was.
	if f, err := g.ReadFileContainer(calls(ctx, "b"), &gwpb.ReadFileRequest{Ref: "c", FilePath: "/name"}); err != nil || string(f.Data) != "x" {
		t.Errorf("got %v, %v", f, err)
	}
	cancel()
	if r := wait(t, remote); status.Code(r.err) != codes.Canceled {
		t.Errorf("the build of the client: %v", r.err)
	}
	signal(t, pid)
	if r := wait(t, ordinary); r.err != nil {
		t.Errorf("the ordinary build: %v", r.err)
	}
}
