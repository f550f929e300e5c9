package image

import (
	"bytes"
	"context"
	"io"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// pushAll pushes the image under every name, tags last.
func (e *Exporter) pushAll(ctx context.Context, img *exporter.Image, names []string, a exporter.Access) error {
	pushed := map[string]bool{}
	var done []registry.Location
	for _, n := range names {
		loc, err := registry.LocationOf(n)
		if err != nil {
			return err
		}
		if !pushed[loc.Repo] {
			if err := e.pushBlobs(ctx, img, n, done, a); err != nil {
				return err
			}
			pushed[loc.Repo] = true
			loc.Insecure = e.insecure
			for _, l := range img.Layers() {
				if l.Held != nil && !images.IsNonDistributable(l.MediaType) {
					l.Held(loc)
				}
			}
			done = append(done, loc)
		}
	}
	for _, n := range names {
		if err := e.pushManifests(ctx, img, n, a); err != nil {
			return err
		}
	}
	return nil
}

func (e *Exporter) target(ref string) registry.Target {
	return registry.Target{Ref: ref, Insecure: e.insecure, NoMount: e.noMount}
}

// pushBlobs sends layers and configs; also are repositories that have them by now.
func (e *Exporter) pushBlobs(ctx context.Context, img *exporter.Image, ref string, also []registry.Location, a exporter.Access) error {
	var blobs []registry.Blob
	var total int64
	for _, l := range img.Layers() {
		if images.IsNonDistributable(l.MediaType) {
			continue // whoever pulls the image gets it from its URLs
		}
		total += l.Size
		blobs = append(blobs, registry.Blob{
			Desc: l.Descriptor, From: slices.Concat(also, l.From),
			Open: func(ctx context.Context) (io.ReadCloser, error) { return l.Open(ctx, a.Group) },
		})
	}
	for _, m := range img.All() {
		blobs = append(blobs, registry.Blob{Desc: m.Config, From: also, Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(bytes.NewReader(m.ConfigData)), nil
		}})
	}
	line := a.Log.Track("pushing layers")
	t := e.target(ref)
	t.Progress = newMeter(line, total).report
	if err := e.cfg.Registry.PushTo(ctx, a.Group, t, blobs...); err != nil {
		return err
	}
	line.Done()
	return nil
}

// A meter adds up what is sent for each blob.
type meter struct {
	line  *progress.Tracker
	total int64
	mu    sync.Mutex // guards sent
	sent  map[digest.Digest]int64
	sum   int64
}

func newMeter(line *progress.Tracker, total int64) *meter {
	return &meter{line: line, total: total, sent: map[digest.Digest]int64{}}
}

func (m *meter) report(d ocispec.Descriptor, n int64, _ bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.sum += n - m.sent[d.Digest]
	m.sent[d.Digest] = n
	m.line.Set(min(m.sum, m.total), m.total)
}

// pushManifests stores the manifests, and what the name points to last.
func (e *Exporter) pushManifests(ctx context.Context, img *exporter.Image, ref string, a exporter.Access) error {
	line := a.Log.Track("pushing manifest for " + ref + "@" + img.Top.Digest.String())
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return err
	}
	at := func(d ocispec.Descriptor) registry.Target { return e.target(named.Name() + "@" + d.Digest.String()) }
	data, parts := img.Manifests[0].Data, []exporter.Manifest(nil)
	if img.Index != nil {
		data, parts = img.Index, img.Manifests
	}
	if !img.Referrers {
		parts = slices.Concat(parts, img.Attestations)
	}
	eg, gctx := errgroup.WithContext(ctx)
	eg.SetLimit(4)
	for _, m := range parts {
		eg.Go(func() error {
			return e.cfg.Registry.PushManifestTo(gctx, a.Group, at(m.Desc), m.Desc, m.Data)
		})
	}
	if err := eg.Wait(); err != nil {
		return err
	}
	// Before the tag: whoever finds the image there finds what refers to it.
	if img.Referrers {
		for _, m := range img.Attestations {
			if err := e.cfg.Registry.PushReferrer(ctx, a.Group, e.target(ref), m.Desc, m.Data, m.About); err != nil {
				return err
			}
		}
	}
	t := e.target(ref)
	if e.byDigest {
		t = at(img.Top)
	}
	if err := e.cfg.Registry.PushManifestTo(ctx, a.Group, t, img.Top, data); err != nil {
		return err
	}
	line.Done()
	return nil
}
