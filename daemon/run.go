package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"time"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	containerdlog "github.com/containerd/log"
	sddaemon "github.com/coreos/go-systemd/v22/daemon"
	"github.com/dbuild/dbuild/session"
	controlapi "github.com/moby/buildkit/api/services/control"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/trace/noop"
	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// maxMessage is the size of a gRPC message that is accepted and sent, in bytes.
const maxMessage = 16 << 20

// Sizes of what carries sessions, in bytes.
const (
	window   = 4 << 20   // of one stream that may be on its way
	ioBuffer = 128 << 10 // of each connection, for reads and for writes
)

// stopGrace is how long running builds have to end after they were canceled because the
// daemon stops.
const stopGrace = 8 * time.Second

// Run serves cfg until ctx ends or nobody has asked for anything during the idle
// timeout. Running builds are canceled when it stops.
func Run(ctx context.Context, cfg Config) error {
	log, err := newLogger(cfg.Log)
	if err != nil {
		return err
	}
	if len(cfg.Addrs) == 0 {
		return errors.New("the daemon has no address to listen on")
	}
	// Listening before the state is opened lets clients wait instead of being refused.
	listeners, err := listenAll(cfg)
	if err != nil {
		return err
	}
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	d, err := New(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer d.Close()
	for _, l := range listeners {
		log.Info("listening", "addr", l.Addr().Network()+"://"+l.Addr().String())
	}
	return d.serve(ctx, listeners)
}

func (d *Daemon) serve(ctx context.Context, listeners []net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opts := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.ForceServerCodecV2(session.Codec{}), grpc.ReadBufferSize(ioBuffer), grpc.WriteBufferSize(ioBuffer),
		grpc.InitialWindowSize(window), grpc.InitialConnWindowSize(2 * window),
		grpc.ChainUnaryInterceptor(d.countUnary, d.unaryErrors),
		grpc.ChainStreamInterceptor(d.countStream, d.streamErrors),
		grpc.WaitForHandlers(true), grpc.Creds(localUsers{}),
	}
	if d.metrics != nil {
		opts = append(opts, grpc.StatsHandler(otelgrpc.NewServerHandler(
			otelgrpc.WithMeterProvider(d.metrics.provider), otelgrpc.WithTracerProvider(noop.NewTracerProvider()))))
	}
	srv := grpc.NewServer(opts...)
	controlapi.RegisterControlServer(srv, &control{d: d})
	gwpb.RegisterLLBBridgeServer(srv, d.gateway)
	healthpb.RegisterHealthServer(srv, health.NewServer())
	contentapi.RegisterContentServer(srv, d.contentService())
	collectorpb.RegisterTraceServiceServer(srv, traceService{tracing: d.tracing})

	g, ctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(func() error {
			if err := srv.Serve(l); err != nil && ctx.Err() == nil {
				return err
			}
			return nil
		})
	}
	if d.cfg.DebugAddr != "" {
		g.Go(func() error { return d.serveDebug(ctx, d.cfg.DebugAddr) })
	}
	g.Go(func() error { return d.collectLoop(ctx) })
	g.Go(func() error { return d.trimLoop(ctx) })
	g.Go(func() error {
		if d.waitIdle(ctx) {
			d.log.Info("idle, leaving", "after", d.cfg.IdleTimeout)
			cancel()
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		_, _ = sddaemon.SdNotify(false, sddaemon.SdNotifyStopping)
		// Stop cancels the contexts of running requests and waits for them; what their
		// builds leave behind unwinds by itself.
		grace, done := context.WithTimeout(context.Background(), stopGrace)
		defer done()
		stopped := make(chan error, 1)
		go func() {
			srv.Stop()
			stopped <- d.solver.Wait(grace)
		}()
		var err error
		select {
		case err = <-stopped:
		case <-grace.Done():
			err = grace.Err()
		}
		if err != nil {
			d.log.Warn("some requests did not end in time")
		}
		return nil
	})
	_, _ = sddaemon.SdNotify(false, sddaemon.SdNotifyReady)
	return g.Wait()
}

// countUnary and countStream keep track of whether the daemon is in use.
func (d *Daemon) countUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	d.begin()
	defer d.end()
	return h(ctx, req)
}

func (d *Daemon) countStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	d.begin()
	defer d.end()
	return h(srv, ss)
}

func (d *Daemon) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active++
}

func (d *Daemon) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active--
	d.idle = time.Now()
	select {
	case d.rest <- struct{}{}:
	default:
	}
}

// trimAfter is how long nothing must have been asked of the daemon until it gives unused
// memory back to the system.
const trimAfter = 10 * time.Second

// trimLoop gives memory back after each burst of builds: what they left behind goes with
// a collection, and in a daemon that has nothing to do the runtime makes none for minutes.
func (d *Daemon) trimLoop(ctx context.Context) error {
	for {
		select {
		case <-d.rest:
		case <-ctx.Done():
			return nil
		}
		if !d.waitQuiet(ctx, trimAfter) {
			return nil
		}
		select {
		case <-d.rest:
		default:
		}
		debug.FreeOSMemory()
	}
}

// waitIdle returns true when nothing was asked of the daemon for its idle timeout.
func (d *Daemon) waitIdle(ctx context.Context) bool {
	if d.cfg.IdleTimeout <= 0 {
		<-ctx.Done()
		return false
	}
	return d.waitQuiet(ctx, d.cfg.IdleTimeout)
}

// waitQuiet returns true when nothing was asked of the daemon for so long.
func (d *Daemon) waitQuiet(ctx context.Context, long time.Duration) bool {
	for {
		d.mu.Lock()
		left := long
		if d.active == 0 {
			left -= time.Since(d.idle)
		}
		d.mu.Unlock()
		if left <= 0 {
			return true
		}
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return false
		}
	}
}

// newLogger returns what the daemon writes its own log to.
func newLogger(cfg LogConfig) (*slog.Logger, error) {
	var out io.Writer = os.Stderr
	if cfg.Output != nil {
		out = cfg.Output
	}
	opt := &slog.HandlerOptions{}
	switch cfg.Level {
	case "debug", "trace":
		opt.Level = slog.LevelDebug
	case "", "info":
	case "warn", "warning":
		opt.Level = slog.LevelWarn
	case "error", "fatal", "panic":
		opt.Level = slog.LevelError
	default:
		return nil, fmt.Errorf("log level %q: use debug, info, warn or error", cfg.Level)
	}
	// Libraries warn about what is none of an operator's business, such as a filesystem
	// without fs-verity.
	_ = containerdlog.SetLevel("error")
	switch cfg.Format {
	case "", "text":
		return slog.New(slog.NewTextHandler(out, opt)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(out, opt)), nil
	}
	return nil, fmt.Errorf("log format %q: use text or json", cfg.Format)
}
