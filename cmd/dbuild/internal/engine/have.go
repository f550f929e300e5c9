package engine

import (
	"context"
	"sync"
	"time"

	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/versions"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// A Store is how an engine keeps images.
type Store int

// Stores.
const (
	Whole Store = iota // in no way that helps
	Graph              // layers by chain ID: an archive may lack what the engine has
	Blobs              // blobs in containerd, and the engine can check that they are complete
)

const (
	// platformAPI is the first version that checks an image by its platform, and tells which
	// of its manifests are complete.
	platformAPI = "1.48"
	// maxImages is how many images of the engine are looked at, the newest first.
	maxImages = 100
	// lookTime bounds that. Large images may be worth more time, small ones are worth less.
	lookTime = 2 * time.Second
)

// Store finds out how the engine keeps images.
func (e *Engine) Store(ctx context.Context) (Store, error) {
	info, err := e.c.Info(ctx, client.InfoOptions{})
	if err != nil {
		return Whole, e.explain(err)
	}
	for _, kv := range info.Info.DriverStatus {
		if kv[0] == "driver-type" && kv[1] == "io.containerd.snapshotter.v1" {
			if versions.LessThan(e.c.ClientVersion(), platformAPI) {
				return Whole, nil
			}
			return Blobs, nil
		}
	}
	return Graph, nil
}

// Prefix returns how many of the lowest of these layers are, in the same order, the lowest
// ones of an image that the engine has. It looks at the named images, and then at others
// until time is up.
func (e *Engine) Prefix(ctx context.Context, diffIDs []digest.Digest, names []string) int {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	p := &prefix{want: diffIDs}
	for _, n := range names {
		p.look(ctx, e, n)
	}
	list, err := e.c.ImageList(ctx, client.ImageListOptions{})
	if err != nil {
		return p.best
	}
	var g errgroup.Group
	g.SetLimit(4)
	for i, img := range list.Items {
		if i == maxImages || p.complete() {
			break
		}
		g.Go(func() error { p.look(ctx, e, img.ID); return nil })
	}
	_ = g.Wait() // none fails
	return p.best
}

type prefix struct {
	want []digest.Digest

	mu   sync.Mutex
	best int // under mu until all have looked
}

func (p *prefix) complete() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.best == len(p.want)
}

func (p *prefix) look(ctx context.Context, e *Engine, image string) {
	if p.complete() {
		return
	}
	img, err := e.c.ImageInspect(ctx, image)
	if err != nil {
		return // it was removed meanwhile, or time is up
	}
	n := 0
	for n < min(len(p.want), len(img.RootFS.Layers)) && img.RootFS.Layers[n] == p.want[n].String() {
		n++
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.best = max(p.best, n)
}
