// Package image exports a result as a container image: into the image store, and to
// registries. Layers that are promises are mounted or streamed by the push and never
// stored.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/registry"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/distribution/reference"
	"golang.org/x/sync/errgroup"
)

// Config is what an Exporter works with; both are required.
type Config struct {
	Store    *snapshot.Store
	Registry *registry.Client
}

// An Exporter makes an image.
type Exporter struct {
	cfg  Config
	opts exporter.ImageOptions

	names         string // comma list as the client wrote it
	push          bool
	byDigest      bool
	insecure      bool
	noMount       bool
	store         bool
	unpack        bool
	ensure        bool
	canonical     bool
	dangling      string // name of an image, to which its digest is added
	danglingEmpty bool   // only if there is no name
}

var _ exporter.Exporter = (*Exporter)(nil)

// New returns an exporter for one request, or says what is wrong with attrs.
func New(cfg Config, attrs map[string]string) (*Exporter, error) {
	a := exporter.NewAttrs("image", attrs)
	e := &Exporter{
		cfg:           cfg,
		opts:          exporter.ImageOptionsFrom(a),
		names:         a.String("name"),
		push:          a.Bool("push", false),
		byDigest:      a.Bool("push-by-digest", false),
		insecure:      a.Bool("registry.insecure", false),
		noMount:       a.Bool("disable-cross-repo-mount", false),
		unpack:        a.Bool("unpack", false),
		ensure:        a.Bool("ensure-blobs", false),
		canonical:     a.Bool("name-canonical", false),
		dangling:      a.String("dangling-name-prefix"),
		danglingEmpty: a.Bool("danging-name-empty-only", false), // misspelt on the wire
	}
	// What is in a registry need not be kept here under a name, which nothing but a filter
	// that says so would prune.
	e.store = a.Bool("store", !e.push)
	if err := a.Done(); err != nil {
		return nil, err
	}
	if e.push && e.names == "" {
		return nil, errors.New("image exporter: push=true needs a name to push to (name=registry/repository:tag)")
	}
	if e.unpack && e.opts.RewriteTimestamp {
		return nil, errors.New(`image exporter: "rewrite-timestamp=true" conflicts with "unpack=true"`)
	}
	if e.byDigest {
		for n := range strings.SplitSeq(e.names, ",") {
			named, err := reference.ParseNormalizedNamed(n)
			if err == nil && !reference.IsNameOnly(named) {
				return nil, fmt.Errorf("image exporter: push-by-digest=true needs a name without a tag, not %s", n)
			}
		}
	}
	return e, nil
}

// Name is what the display calls the step.
func (e *Exporter) Name() string { return "exporting to image" }

// Export assembles the image, pushes it if asked to, and then points the names in the
// image store to it: nothing is named that failed.
func (e *Exporter) Export(ctx context.Context, src exporter.Source, a exporter.Access) (map[string]string, error) {
	names, err := src.Names(e.names)
	if err != nil {
		return nil, err
	}
	opts := e.opts
	opts.Names = names
	src, release, err := exporter.Squash(ctx, src, a, opts)
	if err != nil {
		return nil, err
	}
	defer release()
	img, err := exporter.Assemble(ctx, src, a, opts)
	if err != nil {
		return nil, err
	}
	if e.ensure {
		if err := e.fetchAll(ctx, img, a); err != nil {
			return nil, err
		}
	}
	if e.unpack {
		if err := unpack(ctx, src, a); err != nil {
			return nil, err
		}
	}
	if e.push {
		if err := e.pushAll(ctx, img, names, a); err != nil {
			return nil, e.keepUnpushed(ctx, src, img, names, err)
		}
		if err := e.dropUnpushed(ctx, names, img.Top.Digest); err != nil {
			return nil, err
		}
	}
	if e.store {
		if err := e.nameAll(ctx, src, img, names, a.Log); err != nil {
			return nil, err
		}
	}
	resp, err := img.Response()
	if err != nil {
		return nil, err
	}
	a.Report(img)
	if list := e.respName(src, img); list != "" {
		resp[exporter.RespName] = list
	}
	return resp, nil
}

// respName is the names as the client wrote them.
func (e *Exporter) respName(src exporter.Source, img *exporter.Image) string {
	list := e.names
	if list == "*" {
		list = string(src.Metadata[exporter.KeyImageName])
	}
	if d := e.danglingName(img); d != "" {
		if list == "" {
			return d
		}
		list += "," + d
	}
	return list
}

func (e *Exporter) danglingName(img *exporter.Image) string {
	if e.dangling == "" || (e.danglingEmpty && e.names != "") {
		return ""
	}
	return e.dangling + "@" + img.Top.Digest.String()
}

// nameAll points names to the image.
func (e *Exporter) nameAll(ctx context.Context, src exporter.Source, img *exporter.Image, names []string, log *progress.Log) error {
	all := names
	if e.canonical {
		for _, n := range names {
			if !strings.Contains(n, "@") {
				all = append(all, n+"@"+img.Top.Digest.String())
			}
		}
	}
	if d := e.danglingName(img); d != "" {
		all = append(all, d)
	}
	var refs []*snapshot.Ref
	if src.Ref != nil {
		refs = append(refs, src.Ref)
	}
	for _, p := range src.Platforms {
		if p.Ref != nil {
			refs = append(refs, p.Ref)
		}
	}
	created := time.Now()
	if e.opts.Epoch != nil {
		created = *e.opts.Epoch
	}
	docs := img.Documents()
	var recall []byte
	for _, n := range all {
		if recall == nil && src.Recall != nil {
			// The same image was made in the same way, which need not be found out again.
			if have, err := e.cfg.Store.GetImage(ctx, n); err == nil && have.Target.Digest == img.Top.Digest && have.Recall != nil {
				recall = have.Recall
			} else if recall, err = src.Recall(ctx, img); err != nil {
				return err
			}
		}
		line := log.Track("naming to " + n)
		if err := e.cfg.Store.PutImage(ctx, snapshot.Image{Name: n, Target: img.Top, Created: created, Recall: recall}, docs, refs); err != nil {
			return fmt.Errorf("name image %s: %w", n, err)
		}
		line.Done()
	}
	return nil
}

// fetchAll reads every blob that is elsewhere once, to be sure that it can be had.
func (e *Exporter) fetchAll(ctx context.Context, img *exporter.Image, a exporter.Access) error {
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(4)
	for _, l := range img.Layers() {
		if l.Local {
			continue
		}
		eg.Go(func() error {
			rc, err := l.Open(ctx, a.Group)
			if err != nil {
				return err
			}
			defer rc.Close()
			v := l.Digest.Verifier()
			if _, err := io.Copy(v, rc); err != nil {
				return err
			}
			if !v.Verified() {
				return fmt.Errorf("layer %s: what was read has another digest: %w", l.Digest, registry.ErrCorrupt)
			}
			return nil
		})
	}
	return eg.Wait()
}

// unpack makes files of every layer.
func unpack(ctx context.Context, src exporter.Source, a exporter.Access) error {
	parts, err := src.Parts()
	if err != nil {
		return err
	}
	for _, p := range parts {
		if p.Ref == nil {
			continue
		}
		m, err := p.Ref.Mount(ctx, snapshot.Access{Group: a.Group, Log: a.Log})
		if err != nil {
			return err
		}
		if err := m.Unmount(); err != nil {
			return err
		}
	}
	return nil
}
