package daemon

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime/debug"
	"strings"
	"time"

	"github.com/dbuild/dbuild/internal/rpcerror"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel/attribute"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

// metrics counts builds under the names that BuildKit's dashboards know:
// buildkit_builds_total, buildkit_builds_steps_total, buildkit_build_duration_seconds and
// those of gRPC. Nil counts nothing.
type metrics struct {
	provider *sdkmetric.MeterProvider
	gather   *prometheus.Registry
	builds   metric.Int64Counter
	steps    metric.Int64Counter
	duration metric.Float64Histogram
}

func newMetrics() (*metrics, error) {
	m := &metrics{gather: prometheus.NewRegistry()}
	m.gather.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	exp, err := otelprom.New(otelprom.WithRegisterer(m.gather), otelprom.WithoutScopeInfo())
	if err != nil {
		return nil, err
	}
	m.provider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(exp), sdkmetric.WithView(sdkmetric.NewView(
		sdkmetric.Instrument{Name: "buildkit.build.duration"},
		sdkmetric.Stream{Aggregation: sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 20}},
	)))
	meter := m.provider.Meter(Package)
	var errs [3]error
	m.builds, errs[0] = meter.Int64Counter("buildkit.builds", metric.WithDescription("Builds that ended, by frontend, status and, if they failed, error code."))
	m.steps, errs[1] = meter.Int64Counter("buildkit.builds.steps", metric.WithDescription("Steps of builds, by kind: total, cached, completed."))
	m.duration, errs[2] = meter.Float64Histogram("buildkit.build.duration", metric.WithUnit("s"), metric.WithDescription("How long builds took."))
	return m, errors.Join(errs[:]...)
}

// count adds a build that ended.
func (m *metrics) count(ctx context.Context, frontend string, took time.Duration, total, cached int, err error) {
	if m == nil {
		return
	}
	st := attribute.String("status", "success")
	attrs := []attribute.KeyValue{attribute.String("frontend", frontend), st}
	if c := rpcerror.Code(err); err != nil {
		st = attribute.String("status", "failure")
		attrs = []attribute.KeyValue{attribute.String("frontend", frontend), st, attribute.String("error_code", c.String())}
	}
	m.builds.Add(ctx, 1, metric.WithAttributes(attrs...))
	m.duration.Record(ctx, took.Seconds(), metric.WithAttributes(st))
	for kind, n := range map[string]int{"total": total, "cached": cached, "completed": total} {
		m.steps.Add(ctx, int64(n), metric.WithAttributes(attribute.String("kind", kind)))
	}
}

// serveDebug serves profiles, variables and metrics on an address until ctx ends. It is
// for operators: whoever reaches it sees the inside of the daemon.
func (d *Daemon) serveDebug(ctx context.Context, addr string) error {
	network, at, ok := strings.Cut(addr, "://")
	if !ok {
		network, at = "tcp", addr
	}
	var l net.Listener
	var err error
	switch network {
	case "unix":
		l, err = listenUnix(at, d.cfg.UID, d.cfg.GID)
	case "tcp":
		l, err = net.Listen("tcp", at)
	default:
		err = errors.New("use unix://PATH or HOST:PORT")
	}
	if err != nil {
		return fmt.Errorf("debug address %s: %w", addr, err)
	}
	mux := http.NewServeMux()
	mux.Handle("/debug/vars", expvar.Handler())
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/gc", func(http.ResponseWriter, *http.Request) { debug.FreeOSMemory() })
	mux.Handle("/metrics", promhttp.HandlerFor(d.metrics.gather, promhttp.HandlerOpts{}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	d.log.Info("serving profiles and metrics", "addr", addr)
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
