package daemon

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/cache/remote"
	"github.com/dbuild/dbuild/history"
	controlapi "github.com/moby/buildkit/api/services/control"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

func (d *Daemon) openHistory() (err error) {
	cfg := history.Config{
		Root: filepath.Join(d.cfg.Root, "history"), DB: d.store,
		MaxAge:   d.cfg.History.MaxAge,
		Resource: spanResource(),
		Report:   func(err error) { d.log.Warn("history", "err", err) },
	}
	if n := d.cfg.History.MaxEntries; n != nil {
		cfg.Off, cfg.MaxEntries = *n == 0, int(max(*n, 0))
	}
	if d.tracing != nil {
		cfg.Spans = d.tracing.batch.OnEnd
	}
	d.history, err = history.Open(cfg)
	return err
}

// remember makes the build known to the history. Builds that clients make for their own
// purposes are not.
func (b *build) remember(ctx context.Context, r *request) {
	if r.internal {
		return
	}
	attrs := make(map[string]string, len(r.attrs))
	for k, v := range r.attrs {
		if k == cacheImports {
			v = remote.Public(v)
		}
		attrs[k] = attest.Redact(v)
	}
	b.entry = b.d.history.Start(history.Request{
		Ref: r.id, Frontend: r.frontend, Attrs: attrs, Exporters: r.exporters, Parent: clientSpan(ctx),
	})
}

// recall tells the history how the build ended. It must be closed.
func (b *build) recall(resp map[string]string, err error) {
	o := history.Outcome{Response: resp, Log: b.log()}
	if err != nil {
		o.Error = statusOf(err)
	}
	b.entry.Finish(o)
}

// log is all that the build showed, as it is sent to clients.
func (b *build) log() iter.Seq[*controlapi.StatusResponse] {
	stream := b.stream
	return func(yield func(*controlapi.StatusResponse) bool) {
		r := stream.Reader()
		for {
			events, err := r.Next(context.Background(), 0) // never waits: it is closed
			if err != nil {
				return
			}
			for _, msg := range statusResponses(events) {
				if !yield(msg) {
					return
				}
			}
		}
	}
}

func statusOf(err error) *spb.Status { return status.Convert(toStatus(err)).Proto() }

// clientSpan is the span that a request is part of at the client's.
func clientSpan(ctx context.Context) trace.SpanContext {
	md, ok := metadata.FromIncomingContext(ctx)
	if !ok || len(md.Get("traceparent")) == 0 {
		return trace.SpanContext{}
	}
	carrier := propagation.MapCarrier{"traceparent": md.Get("traceparent")[0]}
	return trace.SpanContextFromContext(propagation.TraceContext{}.Extract(context.Background(), carrier))
}

// ListenBuildHistory tells of builds that were, are and will be.
func (c *control) ListenBuildHistory(req *controlapi.BuildHistoryRequest, srv controlapi.Control_ListenBuildHistoryServer) error {
	if err := sendTime(srv); err != nil {
		return err
	}
	return c.d.history.Listen(srv.Context(), req, srv.Send)
}

// UpdateBuildHistory finalizes, deletes, pins or unpins the record of a build.
func (c *control) UpdateBuildHistory(ctx context.Context, req *controlapi.UpdateBuildHistoryRequest) (*controlapi.UpdateBuildHistoryResponse, error) {
	h, ref := c.d.history, req.GetRef()
	var err error
	switch {
	case ref == "":
		err = errdefs.ErrInvalidArgument.WithMessage("no build is named: set Ref to the ref of one")
	case req.GetFinalize():
		err = h.Finalize(ctx, ref)
	case req.GetDelete():
		err = h.Delete(ctx, ref)
	default:
		err = h.Pin(ctx, ref, req.GetPinned())
	}
	if err != nil {
		return nil, err
	}
	return &controlapi.UpdateBuildHistoryResponse{}, nil
}

// replay sends what a build of the past showed. It returns false if there was none.
func (c *control) replay(ref string, srv controlapi.Control_StatusServer) (bool, error) {
	if c.d.known(ref) != nil {
		return false, nil
	}
	err := c.d.history.Status(srv.Context(), ref, srv.Send)
	if errors.Is(err, errdefs.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return true, fmt.Errorf("history: %w", err)
	}
	return true, nil
}
