package worker

import (
	"context"
	"fmt"
	"sync"

	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/source/git"
	"github.com/dbuild/dbuild/source/http"
	"github.com/dbuild/dbuild/source/image"
	bksession "github.com/moby/buildkit/session"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Pins are what mutable names meant when a build first looked them up, so that one build
// sees one state of the world: what its client was told of a source is what it gets.
// Failures are not kept. The zero Pins is ready for use.
type Pins struct {
	mu     sync.Mutex
	known  map[string]any
	closed bool
}

// Close forgets the pins.
func (p *Pins) Close() {
	p.mu.Lock()
	known := p.known
	p.known, p.closed = nil, true
	p.mu.Unlock()
	for _, v := range known {
		if r, ok := v.(solver.Releaser); ok {
			r.Release()
		}
	}
}

// known returns what one of all knows by a name.
func known[T any](all []*Pins, name string) (v T, ok bool) {
	for _, p := range all {
		p.mu.Lock()
		v, ok = p.known[name].(T)
		if ok {
			v = share(v)
		}
		p.mu.Unlock()
		if ok {
			return v, true
		}
	}
	return v, false
}

// keep has all know v by a name, those that know nothing else by it.
func keep[T any](all []*Pins, name string, v T) {
	for _, p := range all {
		p.mu.Lock()
		if _, ok := p.known[name]; !ok && !p.closed {
			if p.known == nil {
				p.known = map[string]any{}
			}
			p.known[name] = share(v)
		}
		p.mu.Unlock()
	}
}

// share returns v with a lifetime of its own.
func share[T any](v T) T {
	if f, ok := any(v).(*http.Pin); ok {
		return any(f.Retain()).(T)
	}
	return v
}

// once looks a name up, if none of all knows it. Of two that look it up at the same time
// the first counts.
func once[T any](all []*Pins, name string, look func() (T, error)) (T, error) {
	if v, ok := known[T](all, name); ok {
		return v, nil
	}
	v, err := look()
	if err != nil {
		return v, err
	}
	keep(all, name, v)
	first, ok := known[T](all, name)
	if !ok {
		return v, nil
	}
	if r, ok := any(v).(solver.Releaser); ok {
		r.Release()
	}
	return first, nil
}

// An Asker is on whose behalf a name is looked up.
type Asker struct {
	Group bksession.Group
	Pins  []*Pins
	Log   *progress.Log
}

// asker is the jobs behind a demand.
func asker(d solver.Demand) Asker {
	a := Asker{Group: group{d}, Log: d.Log()}
	for j := range d.Jobs() {
		if c, ok := j.Value().(Client); ok {
			a.Pins = append(a.Pins, c.Pins())
		}
	}
	return a
}

func (w *Worker) findImage(ctx context.Context, a Asker, name string, p *ocispec.Platform, mode string) (*image.Resolved, error) {
	want := ""
	if p != nil {
		want = platforms.FormatAll(platforms.Normalize(*p))
	}
	return once(a.Pins, fmt.Sprintf("image %q %s %s", name, want, mode), func() (*image.Resolved, error) {
		return w.Images.Resolve(ctx, a.Group, name, p, mode)
	})
}

func (w *Worker) findFile(ctx context.Context, a Asker, req http.Request) (*http.Pin, error) {
	return once(a.Pins, "http "+req.Key(), func() (*http.Pin, error) {
		return w.HTTP.Pin(ctx, a.Group, req, a.Log)
	})
}

func (w *Worker) findCommit(ctx context.Context, a Asker, req git.Request) (*git.Pin, error) {
	found, err := once(a.Pins, "git "+req.Name(), func() (git.Found, error) {
		return w.Git.Find(ctx, a.Group, req, a.Log)
	})
	if err != nil {
		return nil, err
	}
	return w.Git.PinTo(ctx, a.Group, req, found, a.Log)
}
