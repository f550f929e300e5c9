package daemon

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/frontend/gateway"
	"github.com/dbuild/dbuild/internal/flight"
	controlapi "github.com/moby/buildkit/api/services/control"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// patience is how long a call of a fuzz target has, and then how long to give up.
const (
	patience = 50 * time.Millisecond
	giveUp   = 30 * time.Second
)

// answers calls a handler, which must neither panic nor outlive its context for long.
func answers(t *testing.T, call func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- call(ctx) }() // a panic ends the test, as it should
	select {
	case err := <-done:
		var p *flight.PanicError
		if errors.As(err, &p) {
			t.Fatalf("%v\n%s", p, p.Stack)
		}
		if st := toStatus(err); st != nil && strings.Contains(st.Error(), "runtime error") {
			t.Fatal(st)
		}
	case <-time.After(giveUp):
		buf := make([]byte, 1<<20)
		t.Fatalf("no answer for %v\n%s", giveUp, buf[:runtime.Stack(buf, true)])
	}
}

// A stream collects what a handler sends.
type stream[T any] struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *stream[T]) Context() context.Context     { return s.ctx }
func (s *stream[T]) SendHeader(metadata.MD) error { return nil }
func (s *stream[T]) Send(m *T) error              { return marshals(any(m)) }
func (s *stream[T]) SendMsg(any) error            { return nil }
func (s *stream[T]) RecvMsg(any) error            { <-s.ctx.Done(); return s.ctx.Err() }
func (s *stream[T]) SetHeader(metadata.MD) error  { return nil }
func (s *stream[T]) SetTrailer(metadata.MD)       {}

func marshals(m any) error {
	_, err := proto.Marshal(m.(proto.Message))
	return err
}

func encoded(f *testing.F, m proto.Message) []byte {
	f.Helper()
	b, err := proto.Marshal(m)
	must(f, err)
	return b
}

func FuzzSolve(f *testing.F) {
	s := start(f)
	for name, req := range badRequests(f) {
		if proto.Size(req) < 4096 {
			req.Ref = name
			f.Add(encoded(f, req))
		}
	}
	f.Add(encoded(f, &controlapi.SolveRequest{Ref: "x", Definition: marshal(f, tiny("x")), Exporters: []*controlapi.Exporter{{Type: "cacheonly"}}}))
	c := &control{d: s.Daemon}
	f.Fuzz(func(t *testing.T, b []byte) {
		req := &controlapi.SolveRequest{}
		if proto.Unmarshal(b, req) != nil {
			return
		}
		if req.Definition == nil && req.Frontend == "" {
			return // waits for a frontend in the client; see FuzzBridge
		}
		req.Session = "" // waiting for a client takes its time
		answers(t, func(ctx context.Context) error {
			resp, err := c.Solve(ctx, req)
			if err == nil {
				err = marshals(resp)
			}
			return err
		})
	})
}

func FuzzStatus(f *testing.F) {
	s := start(f)
	c := &control{d: s.Daemon}
	_, err := c.Solve(f.Context(), &controlapi.SolveRequest{Ref: "x", Definition: marshal(f, tiny("x"))})
	must(f, err)
	f.Add(encoded(f, &controlapi.StatusRequest{Ref: "x"}))
	f.Add(encoded(f, &controlapi.StatusRequest{Ref: "unknown"}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		req := &controlapi.StatusRequest{}
		if proto.Unmarshal(b, req) == nil {
			answers(t, func(ctx context.Context) error {
				return c.Status(req, &stream[controlapi.StatusResponse]{ctx: ctx})
			})
		}
	})
}

func FuzzUsage(f *testing.F) {
	s := start(f)
	c := &control{d: s.Daemon}
	_, err := c.Solve(f.Context(), &controlapi.SolveRequest{Ref: "x", Definition: marshal(f, tiny("x"))})
	must(f, err)
	for _, filter := range []string{"", "id==x", "type~=reg.*", "type==", `description=="make x"`, "inuse", "!inuse,shared", "a.b.c==d", "~="} {
		f.Add(encoded(f, &controlapi.DiskUsageRequest{Filter: []string{filter}, AgeLimit: -1}))
		f.Add(encoded(f, &controlapi.PruneRequest{Filter: []string{filter}, All: true, KeepDuration: -1, ReservedSpace: -1, MaxUsedSpace: 1 << 62, MinFreeSpace: 1 << 62}))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		du, prune := &controlapi.DiskUsageRequest{}, &controlapi.PruneRequest{}
		if proto.Unmarshal(b, du) == nil {
			answers(t, func(ctx context.Context) error {
				resp, err := c.DiskUsage(ctx, du)
				if err == nil {
					err = marshals(resp)
				}
				return err
			})
		}
		if proto.Unmarshal(b, prune) == nil {
			answers(t, func(ctx context.Context) error {
				return c.Prune(prune, &stream[controlapi.UsageRecord]{ctx: ctx})
			})
		}
	})
}

// bridgeCalls are the calls of the gateway, by a number.
func bridgeCalls(g *gateway.Forwarder) []func(context.Context, []byte) (proto.Message, error) {
	return []func(context.Context, []byte) (proto.Message, error){
		bridgeCall(g.Solve), bridgeCall(g.ReadFile), bridgeCall(g.ReadDir), bridgeCall(g.StatFile), bridgeCall(g.Evaluate),
		bridgeCall(g.ResolveImageConfig), bridgeCall(g.ResolveSourceMeta), bridgeCall(g.Ping), bridgeCall(g.Inputs), bridgeCall(g.Warn),
		bridgeCall(g.NewContainer), bridgeCall(g.ReleaseContainer), bridgeCall(g.ReadFileContainer), bridgeCall(g.Return),
	}
}

// bridgeCall decodes the request of a call.
func bridgeCall[Q, A any, P interface {
	*Q
	proto.Message
}, R interface {
	*A
	proto.Message
}](call func(context.Context, P) (R, error)) func(context.Context, []byte) (proto.Message, error) {
	return func(ctx context.Context, b []byte) (proto.Message, error) {
		req := P(new(Q))
		if err := proto.Unmarshal(b, req); err != nil {
			return nil, err
		}
		return call(ctx, req)
	}
}

func FuzzBridge(f *testing.F) {
	s := start(f)
	def := marshal(f, tiny("x"))
	f.Add(byte(0), encoded(f, &gwpb.SolveRequest{Definition: def, AllowResultReturn: true, AllowResultArrayRef: true, Evaluate: true}))
	f.Add(byte(0), encoded(f, &gwpb.SolveRequest{Frontend: "dockerfile.v0", FrontendOpt: map[string]string{"target": "x"}, FrontendInputs: map[string]*pb.Definition{"dockerfile": def, "context": def}}))
	f.Add(byte(1), encoded(f, &gwpb.ReadFileRequest{Ref: "ref-1", FilePath: "/name", Range: &gwpb.FileRange{Offset: -1, Length: 1 << 62}}))
	f.Add(byte(2), encoded(f, &gwpb.ReadDirRequest{Ref: "ref-1", DirPath: "/", IncludePattern: "[a"}))
	f.Add(byte(3), encoded(f, &gwpb.StatFileRequest{Ref: "ref-1", Path: "../../x"}))
	f.Add(byte(4), encoded(f, &gwpb.EvaluateRequest{Ref: "ref-1"}))
	f.Add(byte(5), encoded(f, &gwpb.ResolveImageConfigRequest{Ref: "UPPER:x", Platform: &pb.Platform{OS: "x"}, StoreID: "s", SourcePolicies: nil}))
	for _, src := range []*pb.SourceOp{
		{Identifier: "git://h/r#-x:../y", Attrs: map[string]string{"git.bundle": "oci-layout+blob://x@y", "git.checksum": "1"}},
		{Identifier: "http://h.invalid/../x", Attrs: map[string]string{"http.filename": "../x", "http.perm": "-1"}},
		{Identifier: "oci-layout://x@sha256:0"}, {Identifier: "docker-image+blob://x"}, {Identifier: "local://x"},
	} {
		f.Add(byte(6), encoded(f, &gwpb.ResolveSourceMetaRequest{
			Source: src, Image: &gwpb.ResolveSourceImageRequest{AttestationChain: true}, HTTP: &gwpb.ResolveSourceHTTPRequest{ChecksumRequest: &gwpb.ChecksumRequest{Algo: 9}},
			SourcePolicies: []*spb.Policy{{Rules: []*spb.Rule{{}}}},
		}))
	}
	f.Add(byte(9), encoded(f, &gwpb.WarnRequest{Digest: "x", Level: -1, Short: []byte{0xff}, Detail: [][]byte{nil}, Info: &pb.SourceInfo{}, Ranges: []*pb.Range{{}}}))
	for i := range bridgeCalls(s.gateway) {
		f.Add(byte(i), []byte{})
	}
	f.Add(byte(13), encoded(f, &gwpb.ReturnRequest{Result: &gwpb.Result{Result: &gwpb.Result_RefDeprecated{RefDeprecated: "ref-1"}, Metadata: map[string][]byte{"refs.platforms": []byte("{}")}}}))
	list := bridgeCalls(s.gateway)
	c := &control{d: s.Daemon}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		ctx, cancel := context.WithCancel(t.Context())
		build := make(chan error, 1)
		go func() {
			_, err := c.Solve(ctx, &controlapi.SolveRequest{Ref: "b", Exporters: []*controlapi.Exporter{{Type: "cacheonly"}}})
			build <- err
		}()
		in := func(ctx context.Context) context.Context {
			return metadata.NewIncomingContext(ctx, metadata.Pairs("buildkit-controlapi-buildid", "b"))
		}
		// So that there is a result to name.
		if _, err := s.gateway.Solve(in(ctx), &gwpb.SolveRequest{Definition: def, AllowResultReturn: true, AllowResultArrayRef: true}); err != nil {
			t.Fatal(err)
		}
		answers(t, func(ctx context.Context) error {
			resp, err := list[int(which)%len(list)](in(ctx), b)
			if err == nil {
				err = marshals(resp)
			}
			return err
		})
		cancel()
		answers(t, func(context.Context) error { return <-build })
	})
}
