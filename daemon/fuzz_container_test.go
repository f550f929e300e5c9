package daemon

import (
	"context"
	"math"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// FuzzContainer makes containers and reads in them; nothing runs there. Processes have a
// target of their own, in frontend/gateway.
func FuzzContainer(f *testing.F) {
	s := start(f)
	c, g := &control{d: s.Daemon}, s.gateway
	ctx, cancel := context.WithCancel(metadata.NewIncomingContext(context.Background(), metadata.Pairs("buildkit-controlapi-buildid", "b")))
	build := make(chan error, 1)
	go func() {
		_, err := c.Solve(ctx, &controlapi.SolveRequest{Ref: "b", Exporters: []*controlapi.Exporter{{Type: "cacheonly"}}})
		build <- err
	}()
	f.Cleanup(func() {
		cancel()
		wait(f, build)
	})
	resp, err := g.Solve(ctx, &gwpb.SolveRequest{Definition: marshal(f, tiny("x")), AllowResultReturn: true, AllowResultArrayRef: true})
	must(f, err)
	root := &pb.Mount{Dest: "/", ResultID: resp.Result.GetRef().GetId()}

	files := []func(context.Context, []byte) (proto.Message, error){
		bridgeCall(g.ReadFileContainer), bridgeCall(g.ReadDirContainer), bridgeCall(g.StatFileContainer), bridgeCall(g.ReleaseContainer),
	}
	fine := encoded(f, &gwpb.NewContainerRequest{ContainerID: "c", Mounts: []*pb.Mount{root}})
	for i := range files {
		f.Add(fine, byte(i), []byte{})
	}
	for _, p := range []string{"/name", "", "/", "../../../etc/passwd", "/name/x", "\x00"} {
		f.Add(fine, byte(0), encoded(f, &gwpb.ReadFileRequest{Ref: "c", FilePath: p, Range: &gwpb.FileRange{Offset: -1, Length: -1}}))
		f.Add(fine, byte(0), encoded(f, &gwpb.ReadFileRequest{Ref: "c", FilePath: p, Range: &gwpb.FileRange{Offset: math.MaxInt64, Length: math.MaxInt64}}))
		f.Add(fine, byte(1), encoded(f, &gwpb.ReadDirRequest{Ref: "c", DirPath: p, IncludePattern: "[a", MountIndex: math.MinInt32}))
		f.Add(fine, byte(2), encoded(f, &gwpb.StatFileRequest{Ref: "c", Path: p, MountIndex: math.MaxInt32}))
		f.Add(fine, byte(2), encoded(f, &gwpb.StatFileRequest{Ref: "c", Path: p}))
	}
	for _, id := range []string{"", "../x", "/", "c\x00"} {
		f.Add(encoded(f, &gwpb.NewContainerRequest{ContainerID: id, Mounts: []*pb.Mount{root}}), byte(3), encoded(f, &gwpb.ReleaseContainerRequest{ContainerID: id}))
	}
	for _, m := range []*pb.Mount{
		{}, {Dest: "/x", MountType: 99}, {Dest: "/x", MountType: pb.MountType_SECRET}, {Dest: "/x", MountType: pb.MountType_SSH, SSHOpt: &pb.SSHOpt{ID: "../x", Mode: math.MaxUint32}},
		{Dest: "/x", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "../x", Sharing: 99}}, {Dest: "/x", MountType: pb.MountType_TMPFS, TmpfsOpt: &pb.TmpfsOpt{Size: math.MinInt64}},
		{Dest: "../x", Selector: "../../x", Input: math.MaxInt64, Output: math.MinInt64, ResultID: root.ResultID}, {Dest: "/", ResultID: "ref-99", ContentCache: 99},
		{Dest: "/x", Selector: "/name/y", Readonly: true, ResultID: root.ResultID}, {Dest: "/x", MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "x", Optional: true}},
	} {
		f.Add(encoded(f, &gwpb.NewContainerRequest{
			ContainerID: "c", Mounts: []*pb.Mount{root, m}, Network: 99, Hostname: "../x", ExtraHosts: []*pb.HostIP{{Host: "x y", IP: "300.0.0.1"}},
			Platform: &pb.Platform{OS: "windows", Architecture: "../x"}, Constraints: &pb.WorkerConstraints{Filter: []string{"~="}},
		}), byte(1), encoded(f, &gwpb.ReadDirRequest{Ref: "c", MountIndex: 1}))
		f.Add(encoded(f, &gwpb.NewContainerRequest{ContainerID: "c", Mounts: []*pb.Mount{root, m}}), byte(1), encoded(f, &gwpb.ReadDirRequest{Ref: "c", MountIndex: 1}))
	}
	f.Fuzz(func(t *testing.T, container []byte, which byte, b []byte) {
		req := &gwpb.NewContainerRequest{}
		if proto.Unmarshal(container, req) != nil {
			return
		}
		in, _ := metadata.FromIncomingContext(ctx)
		answers(t, func(ctx context.Context) error {
			_, err := g.NewContainer(metadata.NewIncomingContext(ctx, in), req)
			return err
		})
		answers(t, func(ctx context.Context) error {
			resp, err := files[int(which)%len(files)](metadata.NewIncomingContext(ctx, in), b)
			if err == nil {
				err = marshals(resp)
			}
			return err
		})
		_, _ = g.ReleaseContainer(ctx, &gwpb.ReleaseContainerRequest{ContainerID: req.ContainerID})
	})
}
