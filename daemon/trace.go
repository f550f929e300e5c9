package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// traceGrace is how long the last spans may take to reach the collector when the daemon
// stops.
const traceGrace = 2 * time.Second

// tracing sends spans to the collector that the standard variables name: ours after each
// build, and those of clients as they come.
type tracing struct {
	client otlptrace.Client
	batch  sdktrace.SpanProcessor
}

// newTracing returns nil if no collector is configured.
func newTracing(ctx context.Context) (*tracing, error) {
	client, err := traceClient()
	if client == nil || err != nil {
		return nil, err
	}
	x, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	return &tracing{client, sdktrace.NewBatchSpanProcessor(x)}, nil
}

// traceClient is what the environment says. As in BuildKit, the protocol is grpc if
// nothing else is said.
func traceClient() (otlptrace.Client, error) {
	exporter := os.Getenv("OTEL_TRACES_EXPORTER")
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") || exporter == "none" {
		return nil, nil
	}
	if exporter != "" && exporter != "otlp" {
		return nil, fmt.Errorf("OTEL_TRACES_EXPORTER=%s: not implemented: use otlp or none", exporter)
	}
	if exporter == "" && firstEnv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT") == "" {
		return nil, nil
	}
	switch p := firstEnv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"); p {
	case "", "grpc":
		return otlptracegrpc.NewClient(), nil
	case "http/protobuf":
		return otlptracehttp.NewClient(), nil
	default:
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_PROTOCOL=%s: not implemented: use grpc or http/protobuf", p)
	}
}

func firstEnv(names ...string) string {
	for _, n := range names {
		if v := os.Getenv(n); v != "" {
			return v
		}
	}
	return ""
}

// spanResource is where our spans come from.
func spanResource() *resource.Resource {
	res := resource.NewSchemaless(attribute.String("service.name", "dbuild"), attribute.String("service.version", Version))
	if env, err := resource.New(context.Background(), resource.WithFromEnv()); err == nil {
		if all, err := resource.Merge(res, env); err == nil {
			return all
		}
	}
	return res
}

// close sends what is left.
func (t *tracing) close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), traceGrace)
	defer cancel()
	return errors.Join(t.batch.Shutdown(ctx))
}

// traceService takes the spans of clients.
type traceService struct {
	collectorpb.UnimplementedTraceServiceServer
	tracing *tracing // may be nil
}

func (s traceService) Export(ctx context.Context, req *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	if s.tracing == nil {
		return nil, status.Error(codes.Unavailable, "no trace collector is configured: set OTEL_EXPORTER_OTLP_ENDPOINT for the daemon")
	}
	if err := s.tracing.client.UploadTraces(ctx, req.GetResourceSpans()); err != nil {
		return nil, status.Error(codes.Unavailable, fmt.Sprintf("forward spans: %v", err))
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}
