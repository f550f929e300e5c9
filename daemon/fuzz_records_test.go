package daemon

import (
	"context"
	"math"
	"strings"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	controlapi "github.com/moby/buildkit/api/services/control"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// written is a stream on which a client writes the same thing again and again.
type written struct {
	stream[contentapi.WriteContentResponse]
	req *contentapi.WriteContentRequest
}

func (w *written) Recv() (*contentapi.WriteContentRequest, error) { return w.req, w.ctx.Err() }

// streamCall decodes the request of a call that answers with a stream.
func streamCall[Q, A any, P interface {
	*Q
	proto.Message
}](call func(P, *stream[A]) error) func(context.Context, []byte) (proto.Message, error) {
	return func(ctx context.Context, b []byte) (proto.Message, error) {
		req := P(new(Q))
		if err := proto.Unmarshal(b, req); err != nil {
			return nil, err
		}
		return nil, call(req, &stream[A]{ctx: ctx})
	}
}

func FuzzContent(f *testing.F) {
	s := start(f)
	_, err := s.control().Solve(f.Context(), &controlapi.SolveRequest{
		Ref: "one", Definition: marshal(f, tiny("x")), Exporters: []*controlapi.Exporter{{Type: "image", Attrs: map[string]string{"name": "x", "store": "false"}}},
	})
	must(f, err)
	log := s.records("")[0].Logs.Digest
	c := s.contentService()
	calls := []func(context.Context, []byte) (proto.Message, error){
		bridgeCall(c.Info), bridgeCall(c.Update), bridgeCall(c.Delete), bridgeCall(c.Status), bridgeCall(c.ListStatuses), bridgeCall(c.Abort),
		streamCall(func(req *contentapi.ListContentRequest, srv *stream[contentapi.ListContentResponse]) error {
			return c.List(req, srv)
		}),
		streamCall(func(req *contentapi.ReadContentRequest, srv *stream[contentapi.ReadContentResponse]) error {
			return c.Read(req, srv)
		}),
		streamCall(func(req *contentapi.WriteContentRequest, srv *stream[contentapi.WriteContentResponse]) error {
			return c.Write(&written{*srv, req})
		}),
	}
	for i := range calls {
		f.Add(byte(i), []byte{})
	}
	for _, d := range []string{log, "sha256:" + strings.Repeat("0", 64), "sha256:../../" + strings.Repeat("0", 58), "../x", "sha512:", "sha256"} {
		f.Add(byte(0), encoded(f, &contentapi.InfoRequest{Digest: d}))
		f.Add(byte(1), encoded(f, &contentapi.UpdateRequest{Info: &contentapi.Info{Digest: d}}))
		f.Add(byte(2), encoded(f, &contentapi.DeleteContentRequest{Digest: d}))
		f.Add(byte(7), encoded(f, &contentapi.ReadContentRequest{Digest: d, Offset: 1, Size: math.MaxInt64}))
		f.Add(byte(7), encoded(f, &contentapi.ReadContentRequest{Digest: d, Offset: math.MinInt64, Size: math.MinInt64}))
		f.Add(byte(8), encoded(f, &contentapi.WriteContentRequest{Action: 99, Ref: d, Expected: d, Total: -1, Offset: -1}))
	}
	f.Add(byte(3), encoded(f, &contentapi.StatusRequest{Ref: "../x"}))
	f.Add(byte(5), encoded(f, &contentapi.AbortRequest{Ref: "../x"}))
	for _, filter := range oddFilters {
		f.Add(byte(4), encoded(f, &contentapi.ListStatusesRequest{Filters: []string{filter}}))
		f.Add(byte(6), encoded(f, &contentapi.ListContentRequest{Filters: []string{filter}}))
	}
	f.Fuzz(func(t *testing.T, which byte, b []byte) {
		answers(t, func(ctx context.Context) error {
			resp, err := calls[int(which)%len(calls)](ctx, b)
			if err == nil && resp != nil {
				err = marshals(resp)
			}
			return err
		})
	})
}

// oddFilters are what clients may write, and what they should not.
var oddFilters = []string{
	"", "ref==one", "digest==x,size!=1", `status~="(a"`, "status~=.*", "startedAt>24h", "completedAt<=2006-01-02T15:04:05Z", "duration>=-1s", "duration<99999999h",
	"startedAt>", "<", "a.b.c", `labels."x==`, `"`, "~=", ",,", "repository!=\x00", strings.Repeat("ref==x,", 50),
}

func FuzzHistory(f *testing.F) {
	s := start(f)
	c := &control{d: s.Daemon}
	def := marshal(f, tiny("x"))
	build := func(ctx context.Context) error {
		_, err := c.Solve(ctx, &controlapi.SolveRequest{Ref: "one", Definition: def})
		return err
	}
	must(f, build(f.Context()))
	for _, filter := range oddFilters {
		f.Add(false, encoded(f, &controlapi.BuildHistoryRequest{Filter: []string{filter}}))
		f.Add(false, encoded(f, &controlapi.BuildHistoryRequest{Ref: "one", ActiveOnly: true, Filter: []string{filter, "status==running"}, Limit: 1}))
	}
	f.Add(false, encoded(f, &controlapi.BuildHistoryRequest{Limit: math.MinInt32}))
	for _, ref := range []string{"", "one", "../one", "unknown", strings.Repeat("r", 300)} {
		f.Add(true, encoded(f, &controlapi.UpdateBuildHistoryRequest{Ref: ref, Finalize: true}))
		f.Add(true, encoded(f, &controlapi.UpdateBuildHistoryRequest{Ref: ref, Delete: true}))
		f.Add(true, encoded(f, &controlapi.UpdateBuildHistoryRequest{Ref: ref, Pinned: true}))
		f.Add(true, encoded(f, &controlapi.UpdateBuildHistoryRequest{Ref: ref, Pinned: true, Delete: true, Finalize: true}))
	}
	f.Fuzz(func(t *testing.T, change bool, b []byte) {
		listen, update := &controlapi.BuildHistoryRequest{}, &controlapi.UpdateBuildHistoryRequest{}
		switch {
		case !change && proto.Unmarshal(b, listen) == nil:
			listen.EarlyExit = true // those who do not want to leave wait until their time is up
			answers(t, func(ctx context.Context) error {
				return c.ListenBuildHistory(listen, &stream[controlapi.BuildHistoryEvent]{ctx: ctx})
			})
		case change && proto.Unmarshal(b, update) == nil:
			answers(t, func(ctx context.Context) error {
				_, err := c.UpdateBuildHistory(ctx, update)
				return err
			})
			if update.Ref == "one" && update.Delete {
				must(t, build(t.Context()))
			}
		}
	})
}

// A recorder is a collector of spans that forgets them.
type recorder struct{}

func (recorder) Start(context.Context) error { return nil }
func (recorder) Stop(context.Context) error  { return nil }
func (recorder) UploadTraces(_ context.Context, spans []*tracepb.ResourceSpans) error {
	return marshals(&collectorpb.ExportTraceServiceRequest{ResourceSpans: spans})
}

func FuzzTraces(f *testing.F) {
	f.Add([]byte{})
	f.Add(encoded(f, clientSpans))
	f.Add(encoded(f, &collectorpb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{ScopeSpans: []*tracepb.ScopeSpans{{}, {Spans: []*tracepb.Span{
		{}, {TraceId: []byte{1}, SpanId: make([]byte, 99), Kind: 99, StartTimeUnixNano: math.MaxUint64, Status: &tracepb.Status{Code: 99}, Links: []*tracepb.Span_Link{{}}},
	}}}}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, s := range []traceService{{}, {tracing: &tracing{client: recorder{}}}} {
			answers(t, func(ctx context.Context) error {
				_, err := bridgeCall(s.Export)(ctx, b)
				return err
			})
		}
	})
}
