package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/gateway"
	"github.com/dbuild/dbuild/internal/snapshot"
	"golang.org/x/sync/errgroup"
)

// Build runs one request from its frontend to its exports and returns what the
// exporters answered.
func (d *Daemon) Build(ctx context.Context, r *request) (_ map[string]string, err error) {
	started := time.Now()
	b, err := d.newBuild(r)
	if err != nil {
		return nil, err
	}
	// Clients call Status and the gateway while Solve is still on its way, so the build
	// can be found before anything slow happens.
	if err := d.add(b); err != nil {
		b.close()
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d.executor.Warm()
	defer func() {
		stats := b.job.Stats()
		b.close()
		d.remove(b)
		d.log.Info("build done", "build", b.id, "took", time.Since(started).Round(time.Millisecond),
			"steps", stats.Vertices, "hits", stats.Hits, "ran", stats.Runs, "err", err)
	}()
	if r.session != "" {
		if err := d.watchSession(ctx, r.session, cancel); err != nil {
			return nil, err
		}
	}
	for _, e := range r.imports {
		b.notice("importing cache from "+cacheName(e.GetType(), e.GetAttrs()), "not implemented: cache import; the build goes on with the local cache")
	}

	res, err := b.solve(ctx, r)
	if err != nil {
		return nil, canceled(ctx, err)
	}
	if err := b.evaluate(ctx, res); err != nil {
		return nil, canceled(ctx, err)
	}
	resp, err := b.export(ctx, r, res)
	if err != nil {
		return nil, canceled(ctx, err)
	}
	for _, e := range r.exports {
		b.notice("exporting cache to "+cacheName(e.GetType(), e.GetAttrs()), "not implemented: cache export; nothing was written")
	}
	for k, v := range res.Metadata {
		if strings.HasPrefix(k, "frontend.") {
			resp[k] = string(v)
		}
	}
	// What the client is told exists must survive a crash.
	if err := d.store.Flush(ctx); err != nil {
		return nil, err
	}
	return resp, nil
}

// canceled prefers the reason a build was stopped to what stopping it looked like.
func canceled(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return context.Cause(ctx)
	}
	return err
}

func cacheName(kind string, attrs map[string]string) string {
	for _, k := range []string{"ref", "src", "dest"} {
		if attrs[k] != "" {
			return kind + " " + attrs[k]
		}
	}
	return kind
}

// watchSession waits for the client's session and cancels the build if it goes away.
func (d *Daemon) watchSession(ctx context.Context, id string, cancel context.CancelCauseFunc) error {
	c, err := d.sessions.Get(ctx, id)
	if err != nil {
		return fmt.Errorf("the client's session did not arrive: %w", err)
	}
	context.AfterFunc(c.Context(ctx), func() { cancel(fmt.Errorf("the client left: %w", context.Canceled)) })
	return nil
}

// solve produces the result of the request: a definition as it is, a frontend of ours,
// or whatever the client returns through the gateway.
func (b *build) solve(ctx context.Context, r *request) (*frontend.Result, error) {
	switch {
	case r.definition != nil && len(r.definition.Def) > 0:
		if r.frontend != "" {
			return nil, errors.New("a build has either a definition or a frontend, not both")
		}
		ref, err := b.Solve(ctx, r.definition)
		if err != nil {
			return nil, err
		}
		return &frontend.Result{Ref: ref}, nil
	case r.frontend != "":
		return b.runFrontend(ctx, r.frontend, &frontend.Request{Opts: r.attrs, Inputs: r.inputs})
	}
	return b.d.gateway.Serve(ctx, b.id, gateway.Build{
		Bridge: b, Frontend: b.runFrontend, Opts: r.attrs, Inputs: r.inputs, Workers: b.d.workers(),
	})
}

func (b *build) runFrontend(ctx context.Context, name string, req *frontend.Request) (*frontend.Result, error) {
	f, ok := b.d.frontends[name]
	if !ok {
		if name == "gateway.v0" {
			return nil, errdefs.ErrNotImplemented.WithMessage("not implemented: frontends as images (gateway.v0)")
		}
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("frontend %q is not known here: use dockerfile.v0", name))
	}
	res, err := f.Solve(ctx, b, req)
	if err != nil {
		return nil, b.locate(err)
	}
	return res, nil
}

// export carries the result out, each exporter in its turn: they share the client.
func (b *build) export(ctx context.Context, r *request, res *frontend.Result) (map[string]string, error) {
	out := map[string]string{}
	if len(r.exporters) == 0 {
		return out, nil
	}
	src := exporter.Source{Metadata: res.Metadata}
	defer func() {
		src.Ref.Release()
		for _, p := range src.Platforms {
			p.Ref.Release()
		}
	}()
	var err error
	if src.Ref, err = b.layers(ctx, res.Ref); err != nil {
		return nil, err
	}
	if src.Platforms, err = b.platforms(ctx, res); err != nil {
		return nil, err
	}
	for i, e := range r.exporters {
		x, err := b.d.exporter(i, e.GetType(), e.GetAttrs())
		if err != nil {
			return nil, err
		}
		resp, err := b.exportTo(ctx, x, src)
		if err != nil {
			return nil, err
		}
		maps.Copy(out, resp)
	}
	return out, nil
}

func (b *build) exportTo(ctx context.Context, x exporter.Exporter, src exporter.Source) (_ map[string]string, err error) {
	log, done := b.step("export:"+x.Name(), x.Name())
	defer func() { done(err) }()
	return x.Export(ctx, src, exporter.Access{Group: b.group(), SessionIDs: b.sessions, Log: log})
}

// platforms pairs each ref of a multi-platform result with its platform, in the order
// the frontend gave.
func (b *build) platforms(ctx context.Context, res *frontend.Result) ([]exporter.Platform, error) {
	if len(res.Refs) == 0 {
		return nil, nil
	}
	var list exporter.PlatformList
	if err := json.Unmarshal(res.Metadata["refs.platforms"], &list); err != nil {
		return nil, fmt.Errorf("the frontend returned refs for several platforms without saying which: %w", err)
	}
	out := make([]exporter.Platform, len(list.Platforms))
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range list.Platforms {
		out[i].ID, out[i].Platform = p.ID, p.Platform
		g.Go(func() (err error) {
			out[i].Ref, err = b.layers(ctx, res.Refs[p.ID])
			return err
		})
	}
	return out, g.Wait()
}

// blobs is how most exporters of r will want layers compressed, or nil if none will.
func (r *request) blobs() *snapshot.Compression {
	for _, e := range r.exporters {
		a := e.GetAttrs()
		switch e.GetType() {
		case "image", "oci", "docker":
			// Others are rare enough to wait until they are asked for.
			if a["compression-level"] == "" && a["source-date-epoch"] == "" {
				return &snapshot.Compression{Type: a["compression"]}
			}
		}
	}
	return nil
}
