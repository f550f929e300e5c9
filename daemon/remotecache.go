package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/cache/remote"
	"github.com/dbuild/dbuild/cache/remote/azblob"
	"github.com/dbuild/dbuild/cache/remote/gha"
	"github.com/dbuild/dbuild/cache/remote/s3"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker"
	"golang.org/x/sync/errgroup"
)

// cacheConfig is what caches of this daemon work with.
func (d *Daemon) cacheConfig() remote.Config {
	return remote.Config{Store: d.store, Registry: d.registry, Sessions: d.sessions.BuildKit(), Wrap: worker.NewRef, Objects: objects, NoCheck: d.cfg.NoRemoteCheck}
}

// objects are the places that keep objects and may have caches.
var objects = map[string]remote.OpenObjects{
	"s3":     func(a *exporter.Attrs) (remote.Objects, error) { return s3.New(a) },
	"azblob": func(a *exporter.Attrs) (remote.Objects, error) { return azblob.New(a) },
	"gha":    func(a *exporter.Attrs) (remote.Objects, error) { return gha.New(a) },
}

// cacheExports are the caches that a build writes.
type cacheExports struct {
	exporters []*remote.Exporter
	inline    bool // into the images that are exported
	clamped   bool // files of images are no newer than their epoch
}

// cacheExports reads what a request says: what is wrong with it is said before anything
// is built.
func (d *Daemon) cacheExports(r *request) (cacheExports, error) {
	var out cacheExports
	seen := map[string]int{}
	var twice []string
	for _, e := range r.exports {
		if e.GetType() == "inline" {
			out.inline = true
			continue
		}
		name := cacheID(frontend.CacheEntry{Type: e.GetType(), Attrs: e.GetAttrs()})
		if seen[name]++; seen[name] == 2 {
			twice = append(twice, e.GetType())
		}
	}
	if len(twice) > 0 {
		return out, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("duplicate cache exports %v", twice))
	}
	for _, e := range r.exports {
		x, err := remote.NewExporter(d.cacheConfig(), remote.Entry{Type: e.GetType(), Attrs: e.GetAttrs()})
		if err != nil {
			return out, err
		}
		if x != nil {
			out.exporters = append(out.exporters, x)
		}
	}
	if v, err := strconv.ParseBool(r.attrs["build-arg:BUILDKIT_INLINE_CACHE"]); err == nil && v {
		out.inline = true
	}
	for _, e := range r.exporters {
		v, err := strconv.ParseBool(e.GetAttrs()["rewrite-timestamp"])
		out.clamped = out.clamped || err == nil && v
	}
	return out, nil
}

// cacheID tells caches apart: in a registry by name, others by all that is said of them.
func cacheID(e frontend.CacheEntry) string {
	if ref := e.Attrs["ref"]; e.Type == "registry" && ref != "" {
		return "registry\x00" + ref
	}
	id := e.Type
	for _, k := range slices.Sorted(maps.Keys(e.Attrs)) {
		id += "\x00" + k + "\x00" + e.Attrs[k]
	}
	return id
}

// An importing is the caches that a build reads, as they arrive.
type importing struct {
	*remote.Imports
	life context.Context // of the build

	mu      sync.Mutex
	begun   map[string]bool // by cacheID
	arrived []chan struct{} // each closed when one has been read, or could not be
}

// ImportCache implements frontend.Bridge: it begins to read caches, each once, while the
// build goes on. One that cannot be read is a step that failed; the build does without.
func (b *build) ImportCache(entries ...frontend.CacheEntry) {
	im := b.imports
	im.mu.Lock()
	defer im.mu.Unlock()
	for _, e := range entries {
		id := cacheID(e)
		if im.begun[id] {
			continue
		}
		im.begun[id] = true
		arrived := make(chan struct{})
		im.arrived = append(im.arrived, arrived)
		place := im.Place()
		go func() { // ends with the build, which waits for it
			defer close(arrived)
			log, done := b.step("import:"+id, "importing cache manifest from "+remote.Entry(e).Name())
			if e.Type == "store" && strings.Contains(e.Attrs["ref"], "*") && b.d.cfg.NoCacheFromAny {
				done(errdefs.ErrPermissionDenied.WithMessage("this daemon allows --cache-from with the names of images only, not with *"))
				return
			}
			done(b.d.guard("import of a cache", func() error { return place.Load(im.life, remote.Entry(e), log) }))
		}()
	}
}

// cacheImports is the option of a frontend that lists caches, in JSON.
const cacheImports = "cache-imports"

// importFor begins to read the caches that a frontend is told of.
func (b *build) importFor(opts map[string]string) error {
	var entries []frontend.CacheEntry
	if v := opts[cacheImports]; v != "" {
		if err := json.Unmarshal([]byte(v), &entries); err != nil {
			return fmt.Errorf("cache-imports is not a list of caches: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	} else if v := opts["cache-from"]; v != "" {
		for ref := range strings.SplitSeq(v, ",") {
			entries = append(entries, frontend.CacheEntry{Type: "registry", Attrs: map[string]string{"ref": ref}})
		}
	}
	b.ImportCache(entries...)
	return nil
}

// await waits until the caches that were begun have been read, or ctx ends.
func (im *importing) await(ctx context.Context) error {
	im.mu.Lock()
	pending := im.arrived
	im.mu.Unlock()
	for _, arrived := range pending {
		select {
		case <-arrived:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// edges are the outputs that a result consists of.
func edges(res *frontend.Result) []solver.Edge {
	var out []solver.Edge
	for _, r := range results(res) {
		if r, ok := r.(*ref); ok && r != nil && !r.empty {
			out = append(out, r.edge)
		}
	}
	return out
}

// inlineCache returns what puts the cache of a part of the result into its image.
func (b *build) inlineCache(res *frontend.Result) exporter.InlineCache {
	return func(ctx context.Context, p exporter.Platform) ([]byte, error) {
		entries := b.entriesOf(ctx, res, p.ID)
		defer release(entries)
		if err := b.job.ForeignSums(ctx, remote.Names{}, entries); err != nil {
			return nil, err
		}
		return remote.Inline(entries, p.Ref)
	}
}

// entriesOf is what is known of how the part of a result for a platform was made.
func (b *build) entriesOf(ctx context.Context, res *frontend.Result, platform string) []solver.Entry {
	part := res.Ref
	if res.Refs != nil {
		part = res.Refs[platform]
	}
	return b.job.Entries(ctx, edges(&frontend.Result{Ref: part})...)
}

// imageRecall returns what tells the image store how an image of the result was made.
func (b *build) imageRecall(res *frontend.Result, src exporter.Source) exporter.Recall {
	return func(ctx context.Context, img *exporter.Image) ([]byte, error) {
		platforms, err := src.Parts()
		if err != nil || len(platforms) != len(img.Manifests) {
			return nil, err
		}
		parts := make([]remote.Part, len(platforms))
		for i, p := range platforms {
			parts[i].Entries = b.entriesOf(ctx, res, p.ID)
			defer release(parts[i].Entries)
			parts[i].Target = p.Ref
			for _, l := range img.Manifests[i].Layers {
				parts[i].DiffIDs = append(parts[i].DiffIDs, l.DiffID)
			}
		}
		return remote.Recall(parts)
	}
}

func release(entries []solver.Entry) {
	for _, e := range entries {
		if e.Ref != nil {
			e.Ref.Release()
		}
	}
}

// exportCaches writes the caches, all at the same time.
func (b *build) exportCaches(ctx context.Context, to cacheExports, res *frontend.Result) (map[string]string, error) {
	if len(to.exporters) == 0 {
		return nil, nil
	}
	entries := b.job.Entries(ctx, edges(res)...)
	defer release(entries)
	if slices.ContainsFunc(to.exporters, (*remote.Exporter).Foreign) {
		if err := b.job.ForeignSums(ctx, remote.Names{}, entries); err != nil {
			return nil, err
		}
	}
	var targets []*snapshot.Ref
	for _, r := range results(res) {
		s, err := b.layers(ctx, r)
		if err != nil {
			return nil, err
		}
		defer s.Release()
		targets = append(targets, s)
	}
	var epoch *time.Time
	if to.clamped {
		var err error
		if epoch, err = epochOf(res); err != nil {
			return nil, err
		}
	}
	mounts := b.mountCopies()
	defer mounts.close()
	answers := make([]map[string]string, len(to.exporters))
	g, gctx := errgroup.WithContext(ctx)
	for i, x := range to.exporters {
		g.Go(func() error {
			log, done := b.step(fmt.Sprint("cache:", i), x.Name())
			of := remote.Build{Entries: entries, Targets: targets, Epoch: epoch, Mounts: mounts.of(x.Mounts(), log)}
			err := b.d.guard("export of a cache", func() (err error) {
				answers[i], err = x.Export(gctx, of, exporter.Access{Group: b.group(), SessionIDs: b.sessions, Log: log})
				return err
			})
			done(err)
			if x.IgnoreError() && gctx.Err() == nil {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, a := range answers {
		maps.Copy(out, a)
	}
	return out, nil
}

// epochOf is the time that files of the result's images are clamped to, or nil. Of several
// platforms with different times, one is chosen.
func epochOf(res *frontend.Result) (*time.Time, error) {
	src := exporter.Source{Metadata: res.Metadata}
	for _, k := range slices.Sorted(maps.Keys(res.Metadata)) {
		if id, ok := strings.CutPrefix(k, exporter.KeyEpoch+"/"); ok {
			return src.EpochOf(exporter.Platform{ID: id})
		}
	}
	return src.EpochOf(exporter.Platform{})
}
