package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/dbuild/dbuild/explain"
	"github.com/dbuild/dbuild/llb"
	controlapi "github.com/moby/buildkit/api/services/control"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// records are what the history has of a build; of all if ref is empty.
func (s *server) records(ref string) []*controlapi.BuildHistoryRecord {
	s.t.Helper()
	srv, err := s.control().ListenBuildHistory(s.t.Context(), &controlapi.BuildHistoryRequest{Ref: ref, EarlyExit: true})
	must(s.t, err)
	var out []*controlapi.BuildHistoryRecord
	for {
		ev, err := srv.Recv()
		if err == io.EOF {
			return out
		}
		must(s.t, err)
		out = append(out, ev.Record)
	}
}

func (s *server) content(digest string) (data []byte, err error) {
	s.t.Helper()
	srv, err := contentapi.NewContentClient(s.conn()).Read(s.t.Context(), &contentapi.ReadContentRequest{Digest: digest})
	must(s.t, err)
	for {
		msg, err := srv.Recv()
		if err == io.EOF {
			return data, nil
		}
		if err != nil {
			return nil, err
		}
		data = append(data, msg.Data...)
	}
}

// read returns a blob that a record refers to.
func (s *server) read(d *controlapi.Descriptor) []byte {
	s.t.Helper()
	data, err := s.content(d.GetDigest())
	must(s.t, err)
	if int64(len(data)) != d.Size {
		s.t.Errorf("%d bytes of %d", len(data), d.Size)
	}
	return data
}

func TestHistoryOfABuild(t *testing.T) {
	s := start(t)
	_, err := s.control().Solve(t.Context(), &controlapi.SolveRequest{Ref: "mine", Internal: true, Definition: marshal(t, tiny("x"))})
	must(t, err)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	resp, err := s.control().Solve(ctx, &controlapi.SolveRequest{
		Ref: "one", Definition: marshal(t, tiny("x")), FrontendAttrs: map[string]string{"k": "v"},
		Exporters: []*controlapi.Exporter{{Type: "cacheonly"}, {Type: "image", Attrs: map[string]string{"name": "x"}}},
	})
	must(t, err)
	list := s.records("")
	if len(list) != 1 {
		t.Fatalf("got %v", list)
	}
	r := list[0]
	if r.Ref != "one" || r.CompletedAt == nil || r.Error != nil || r.FrontendAttrs["k"] != "v" || len(r.Exporters) != 2 || r.NumTotalSteps != 3 {
		t.Errorf("got %v", r)
	}
	image := resp.ExporterResponse["containerimage.digest"]
	if r.ExporterResponse["containerimage.digest"] != image || r.Result.Results[1].GetDigest() != image {
		t.Errorf("got %v", r)
	}
	if !bytes.Contains(s.read(r.Result.Results[1]), []byte("layers")) {
		t.Error("the manifest is something else")
	}
	if n := bytes.Count(s.read(r.Trace), []byte("0af7651916cd43dd8448eb211c80319c")); n == 0 {
		t.Error("the spans are not part of the client's trace")
	}
	if a := r.Result.Attestations; len(a) != 2 || a[1].MediaType != explain.MediaType || a[0].Annotations["in-toto.io/predicate-type"] != "https://slsa.dev/provenance/v1" || !bytes.Contains(s.read(a[0]), []byte("buildDefinition")) {
		t.Errorf("got %v", a)
	}
	// The status is replayed from the history once the daemon has forgotten the rest.
	before := read(s.control().Status(t.Context(), &controlapi.StatusRequest{Ref: "one"}))
	s.mu.Lock()
	s.ended = nil
	s.mu.Unlock()
	after := read(s.control().Status(t.Context(), &controlapi.StatusRequest{Ref: "one"}))
	if after.err != nil || strings.Join(before.names, "|") != strings.Join(after.names, "|") || len(after.names) != 3 {
		t.Errorf("got %q, %v; before it was %q", after.names, after.err, before.names)
	}
}

func TestHistoryOfAFailedBuild(t *testing.T) {
	s := start(t)
	_, want := s.control().Solve(t.Context(), &controlapi.SolveRequest{Ref: "one", Definition: marshal(t, sh(base(1), "exit 3", llb.Meta{Name: "fail"}))})
	list := s.records("one")
	if len(list) != 1 || list[0].Error.GetMessage() != status.Convert(want).Message() || len(list[0].Error.Details) != 0 {
		t.Fatalf("got %v, want %v", list, want)
	}
	var full spb.Status
	must(t, proto.Unmarshal(s.read(list[0].ExternalError), &full))
	if len(full.Details) != len(status.Convert(want).Proto().Details) {
		t.Errorf("got %v", full.Details)
	}
}

func TestHistorySurvivesARestart(t *testing.T) {
	root := t.TempDir()
	in := func(c *Config) { c.Root = root }
	s := start(t, in)
	_, err := s.control().Solve(t.Context(), &controlapi.SolveRequest{Ref: "one", Definition: marshal(t, tiny("x"))})
	must(t, err)
	s.end()
	must(t, s.Close())
	s = start(t, in)
	list := s.records("one")
	if len(list) != 1 || len(s.read(list[0].Logs)) == 0 {
		t.Fatalf("got %v", list)
	}
	if st := read(s.control().Status(t.Context(), &controlapi.StatusRequest{Ref: "one"})); st.err != nil || len(st.names) == 0 {
		t.Errorf("got %+v", st)
	}
	none := int64(0)
	s.end()
	must(t, s.Close())
	s = start(t, in, func(c *Config) { c.History.MaxEntries = &none })
	_, err = s.control().Solve(t.Context(), &controlapi.SolveRequest{Ref: "two", Definition: marshal(t, tiny("x"))})
	must(t, err)
	if len(s.records("one")) != 1 || len(s.records("two")) != 0 {
		t.Errorf("got %v", s.records(""))
	}
}

func TestContentIsForReading(t *testing.T) {
	s := start(t)
	c := contentapi.NewContentClient(s.conn())
	refused := func(what string, err error, want codes.Code) {
		t.Helper()
		clean(t, err)
		if status.Code(err) != want {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err := c.Update(t.Context(), &contentapi.UpdateRequest{})
	refused("update", err, codes.PermissionDenied)
	_, err = c.Delete(t.Context(), &contentapi.DeleteContentRequest{})
	refused("delete", err, codes.PermissionDenied)
	_, err = c.Abort(t.Context(), &contentapi.AbortRequest{})
	refused("abort", err, codes.PermissionDenied)
	w, err := c.Write(t.Context())
	must(t, err)
	_ = w.Send(&contentapi.WriteContentRequest{}) // it may be refused already
	_, err = w.Recv()
	refused("write", err, codes.PermissionDenied)
	_, err = c.Info(t.Context(), &contentapi.InfoRequest{})
	refused("info of nothing", err, codes.InvalidArgument)
	none := "sha256:" + strings.Repeat("0", 64)
	_, err = c.Info(t.Context(), &contentapi.InfoRequest{Digest: none})
	refused("info", err, codes.NotFound)
	_, err = s.content(none)
	refused("read", err, codes.NotFound)
	_, err = s.content("../x")
	refused("read of a path", err, codes.InvalidArgument)
	_, err = c.Status(t.Context(), &contentapi.StatusRequest{})
	refused("status", err, codes.NotFound)
	if l, err := c.ListStatuses(t.Context(), &contentapi.ListStatusesRequest{}); err != nil || len(l.Statuses) != 0 {
		t.Errorf("statuses: %v, %v", l, err)
	}

	_, err = s.control().Solve(t.Context(), &controlapi.SolveRequest{
		Ref: "one", Definition: marshal(t, tiny("x")), Exporters: []*controlapi.Exporter{{Type: "image", Attrs: map[string]string{"name": "x", "store": "false"}}},
	})
	must(t, err)
	s.records("") // waits until it is written
	if len(s.blobs(c)) == 0 {
		t.Error("there is no content")
	}
	logs := s.records("one")[0].Logs.Digest
	srv, err := c.Read(t.Context(), &contentapi.ReadContentRequest{Digest: logs, Offset: -5, Size: 1 << 62})
	must(t, err)
	if msg, err := srv.Recv(); err != nil || len(msg.Data) == 0 {
		t.Errorf("odd bounds: %v, %v", msg, err)
	}
	_, err = s.control().UpdateBuildHistory(t.Context(), &controlapi.UpdateBuildHistoryRequest{Ref: "one", Delete: true})
	must(t, err)
	prune, err := s.control().Prune(t.Context(), &controlapi.PruneRequest{All: true})
	must(t, err)
	for err == nil {
		_, err = prune.Recv()
	}
	if left := s.blobs(c); len(left) != 0 {
		t.Errorf("after everything was removed there is %q", left)
	}
}

// blobs walks all content.
func (s *server) blobs(c contentapi.ContentClient) (out []string) {
	s.t.Helper()
	srv, err := c.List(s.t.Context(), &contentapi.ListContentRequest{})
	must(s.t, err)
	for {
		msg, err := srv.Recv()
		if errors.Is(err, io.EOF) {
			return out
		}
		must(s.t, err)
		for _, i := range msg.Info {
			out = append(out, i.Digest)
		}
	}
}

// A collector takes spans.
type collector struct {
	collectorpb.UnimplementedTraceServiceServer
	names chan string
}

func (c collector) Export(_ context.Context, req *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	for _, r := range req.ResourceSpans {
		for _, sc := range r.ScopeSpans {
			for _, sp := range sc.Spans {
				c.names <- sp.Name
			}
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

var clientSpans = &collectorpb.ExportTraceServiceRequest{ResourceSpans: []*tracepb.ResourceSpans{{
	ScopeSpans: []*tracepb.ScopeSpans{{Spans: []*tracepb.Span{{Name: "of a client"}}}},
}}}

func TestSpansGoToTheCollector(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	srv, c := grpc.NewServer(), collector{names: make(chan string, 100)}
	collectorpb.RegisterTraceServiceServer(srv, c)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	defer func() {
		srv.Stop()
		must(t, wait(t, served))
	}()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+l.Addr().String())
	s := start(t)
	_, err = collectorpb.NewTraceServiceClient(s.conn()).Export(t.Context(), clientSpans)
	must(t, err)
	if got := wait(t, c.names); got != "of a client" {
		t.Errorf("got %q", got)
	}
	_, err = s.control().Solve(t.Context(), &controlapi.SolveRequest{Ref: "one", Definition: marshal(t, tiny("x"))})
	must(t, err)
	s.end()
	must(t, s.Close())
	if a, b := wait(t, c.names), wait(t, c.names); a != "build" || b != "make x" {
		t.Errorf("got %q and %q", a, b)
	}
}

func TestWithoutACollectorThereAreNoTraces(t *testing.T) {
	s := start(t)
	_, err := collectorpb.NewTraceServiceClient(s.conn()).Export(t.Context(), clientSpans)
	clean(t, err)
	if status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	for k, v := range map[string]string{"OTEL_TRACES_EXPORTER": "carrier-pigeon", "OTEL_EXPORTER_OTLP_PROTOCOL": "fax"} {
		t.Run(k, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
			t.Setenv(k, v)
			if _, err := traceClient(); err == nil || !strings.Contains(err.Error(), v) {
				t.Errorf("got %v", err)
			}
		})
	}
}
