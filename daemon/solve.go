package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
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
func (d *Daemon) Build(ctx context.Context, r *request) (resp map[string]string, err error) {
	started := time.Now()
	b := d.newBuild(r)
	// Clients call Status and the gateway while Solve is still on its way, so the build
	// can be found before anything slow happens.
	if err := d.add(b); err != nil {
		b.close()
		return nil, err
	}
	b.remember(ctx, r)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b.imports.life = ctx
	d.executor.Warm()
	defer func() {
		stats := b.job.Stats()
		b.rememberTrace(r)
		b.close()
		d.remove(b)
		b.recall(resp, err)
		d.metrics.count(context.WithoutCancel(ctx), r.frontend, time.Since(started), stats.Vertices, stats.Hits, err)
		d.log.Info("build done", "build", b.id, "took", time.Since(started).Round(time.Millisecond),
			"steps", stats.Vertices, "hits", stats.Hits, "ran", stats.Runs, "err", err)
	}()
	if err := b.permit(r); err != nil {
		return nil, err
	}
	exporters, err := d.exporters(r)
	if err != nil {
		return nil, err
	}
	arrived := d.watchSession(ctx, r.session, cancel, b.ownedBy)
	defer func() {
		cancel(nil)
		_ = arrived()
	}()
	caches, err := d.cacheExports(r)
	if err != nil {
		return nil, err
	}
	for _, e := range r.imports {
		b.ImportCache(frontend.CacheEntry{Type: e.GetType(), Attrs: e.GetAttrs()})
	}

	res, err := b.solve(ctx, r)
	if err != nil {
		return nil, canceled(ctx, err)
	}
	if r.plan {
		return b.plan(ctx, r, res)
	}
	b.verifyPlatforms(ctx, r.attrs, res)
	if r.chosenLate {
		b.notice("exporting", "not implemented: exporters that the client names when the result is known; those it named before are used")
	}
	resp, err = b.deliver(ctx, exporters, caches, res)
	if err != nil {
		return nil, canceled(ctx, err)
	}
	b.rememberProvenance(res)
	if err := arrived(); err != nil {
		return nil, err
	}
	more, err := b.exportCaches(ctx, caches, res)
	if err != nil {
		return nil, canceled(ctx, err)
	}
	maps.Copy(resp, more)
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

// watchSession cancels the build if the client's session does not arrive or goes away.
// Nobody waits for it before the build begins: the client's frontend may be calling
// already. The function that it returns waits until the session has arrived, or ctx ends.
func (d *Daemon) watchSession(ctx context.Context, id string, cancel context.CancelCauseFunc, owner func(string)) (arrived func() error) {
	if id == "" {
		return func() error { return nil }
	}
	done := make(chan error, 1)
	go func() {
		c, err := d.sessions.Get(ctx, id)
		if err != nil {
			err = fmt.Errorf("the client's session did not arrive: %w", err)
			cancel(err)
		} else {
			owner(c.SharedKey())
			context.AfterFunc(c.Context(ctx), func() { cancel(fmt.Errorf("the client left: %w", context.Canceled)) })
		}
		done <- err
	}()
	return sync.OnceValue(func() error { return <-done })
}

// solve produces the result of the request: a definition as it is, a frontend of ours,
// or whatever the client returns through the gateway.
func (b *build) solve(ctx context.Context, r *request) (*frontend.Result, error) {
	switch {
	case r.frontend != "" && len(r.definition.GetDef()) > 0:
		return nil, errdefs.ErrInvalidArgument.WithMessage("a build has either a definition or a frontend, not both")
	case r.frontend != "":
		return b.SolveFrontend(ctx, r.frontend, &frontend.Request{Opts: r.attrs, Inputs: r.inputs})
	case r.definition != nil: // without operations it is scratch
		ref, err := b.root.bridge().Solve(ctx, r.definition)
		if err != nil {
			return nil, err
		}
		return &frontend.Result{Ref: ref}, nil
	}
	b.keeps.Store(true)
	return b.d.gateway.Serve(ctx, b.id, gateway.Build{
		Bridge: b.root.bridge(), Inputs: r.inputs, Workers: b.d.workers(),
	})
}

// SolveFrontend implements frontend.Bridge.
func (b *build) SolveFrontend(ctx context.Context, name string, req *frontend.Request) (*frontend.Result, error) {
	f, ok := b.d.frontends[name]
	if !ok {
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("frontend %q is not known here, or is off: there are %s", name,
			strings.Join(slices.Sorted(maps.Keys(b.d.frontends)), ", ")))
	}
	if err := b.mayAsk(name, req.Opts); err != nil {
		return nil, err
	}
	if len(b.sessions) > 0 {
		req.Session = b.sessions[0]
	}
	if err := b.importFor(req.Opts); err != nil {
		return nil, err
	}
	q := b.ask(name, req.Opts, req.Inputs)
	res, err := f.Solve(ctx, q.bridge(), req)
	if err != nil {
		return nil, b.locate(err)
	}
	q.answered(res)
	return res, nil
}

// deliver builds the result and carries it out. If it turns out then that a layer of the
// result is not to be had any more, the result is made again.
func (b *build) deliver(ctx context.Context, exporters []exporter.Exporter, caches cacheExports, res *frontend.Result) (map[string]string, error) {
	for try := 0; ; try++ {
		if err := b.evaluate(ctx, res); err != nil {
			return nil, err
		}
		resp, err := b.export(ctx, exporters, caches, res)
		var lost *snapshot.LostError
		if !errors.As(err, &lost) || try == maxLost {
			return resp, err
		}
		forgotten := false
		for _, r := range results(res) {
			if r, ok := r.(*ref); ok && r.forget(lost.LayerID) {
				forgotten = true
			}
		}
		if !forgotten {
			return nil, err
		}
	}
}

// export carries the result out, each exporter in its turn: they share the client.
func (b *build) export(ctx context.Context, exporters []exporter.Exporter, caches cacheExports, res *frontend.Result) (map[string]string, error) {
	out := map[string]string{}
	if len(exporters) == 0 {
		return out, nil
	}
	src := exporter.Source{Metadata: res.Metadata}
	if caches.inline {
		src.Inline = b.inlineCache(res)
	}
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
	if src.Attestations, err = b.attest(ctx, res, src); err != nil {
		return nil, err
	}
	src.Recall = b.imageRecall(res, src)
	for i, x := range exporters {
		resp, err := b.exportTo(ctx, i, x, src)
		if err != nil {
			return nil, err
		}
		maps.Copy(out, resp)
	}
	return out, nil
}

func (b *build) exportTo(ctx context.Context, i int, x exporter.Exporter, src exporter.Source) (_ map[string]string, err error) {
	log, done := b.step("export:"+x.Name(), x.Name())
	defer func() { done(err) }()
	made := func(img *exporter.Image) { b.entry.Result(i, img.Descriptor(), img.Documents()) }
	return x.Export(ctx, src, exporter.Access{Group: b.group(), SessionIDs: b.sessions, Log: log, Made: made})
}

// platforms pairs each ref of a multi-platform result with its platform, in the order
// the frontend gave.
func (b *build) platforms(ctx context.Context, res *frontend.Result) ([]exporter.Platform, error) {
	if len(res.Refs) == 0 {
		return nil, nil
	}
	out, err := platformList(res)
	if err != nil {
		return nil, err
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range out {
		g.Go(func() (err error) {
			out[i].Ref, err = b.layers(ctx, res.Refs[p.ID])
			return err
		})
	}
	return out, g.Wait()
}

// platformList is what the frontend says the refs of a multi-platform result are for.
func platformList(res *frontend.Result) ([]exporter.Platform, error) {
	var list exporter.PlatformList
	if err := json.Unmarshal(res.Metadata[exporter.KeyPlatforms], &list); err != nil {
		return nil, fmt.Errorf("the frontend returned refs for several platforms without saying which: %w", err)
	}
	return list.Platforms, nil
}

// blobs is how most exporters of r will want layers compressed, or nil if none will.
func (r *request) blobs() *snapshot.Compression {
	for _, e := range r.exporters {
		a := e.GetAttrs()
		switch e.GetType() {
		case "image", "oci", "docker":
			// Others are rare enough to wait until they are asked for.
			if a["compression-level"] == "" && a["rewrite-timestamp"] == "" {
				return &snapshot.Compression{Type: a["compression"]}
			}
		}
	}
	return nil
}
