package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/engine"
	"github.com/dbuild/dbuild/session"
	units "github.com/docker/go-units"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// An engineLoad gives an image to an engine over docker's API: the layers that the engine
// lacks, if the daemon asks which ones these are, or else the whole image. Nothing is sent
// of an image that the engine has; it gets its names.
type engineLoad struct {
	engine *engine.Engine
	out    io.Writer       // what the engine says goes here
	ctx    context.Context // of calls; ends with kill, as the session gives us none
	cancel context.CancelFunc

	mu    sync.Mutex // guards all below
	store engine.Store
	asked int                  // questions that were answered
	q     session.LoadQuestion // the last one
	have  int                  // layers that are not sent
	told  bool                 // the engine has named the first layer that it lacks
	wary  bool                 // it has refused an archive, and may have kept a part of the image
	done  chan struct{}        // of the last archive; nil before
	ok    bool                 // the engine has the image
	err   error                // why not
}

var _ streamLoad = (*engineLoad)(nil)

func newEngineLoad(e *engine.Engine, out io.Writer) *engineLoad {
	ctx, cancel := context.WithCancel(context.Background())
	return &engineLoad{engine: e, out: out, ctx: ctx, cancel: cancel}
}

// answer decides what the engine is sent next.
func (l *engineLoad) answer(ctx context.Context, q session.LoadQuestion) (session.LoadAnswer, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.q = q
	first := l.asked == 0
	l.asked++
	if first {
		ctx, cancel := context.WithTimeout(ctx, askTimeout)
		defer cancel()
		if err := l.guess(ctx); err != nil {
			return session.LoadAnswer{}, err
		}
	}
	a := session.LoadAnswer{Have: l.have}
	switch {
	case first && l.store == engine.Graph:
		a.Line = "asking " + l.engine.Name() + " which layers it lacks"
	case l.told || l.have > 0:
		size := int64(0)
		for _, layer := range q.Layers[l.have:] {
			size += layer.Size
		}
		a.Line = fmt.Sprintf("sending layers to %s: %d of %d missing, %s", l.engine.Name(), len(q.Layers)-l.have, len(q.Layers), units.HumanSize(float64(size)))
	default:
		a.Line = "sending the whole image to " + l.engine.Name()
	}
	return a, nil
}

// guess sets what to leave out of the first archive. Where layers are known by chain ID the
// engine answers better than we could find out: it is sent none.
func (l *engineLoad) guess(ctx context.Context) error {
	var err error
	if l.store, err = l.engine.Store(ctx); err != nil {
		return err
	}
	switch l.store {
	case engine.Graph:
		l.have = len(l.q.Layers)
	case engine.Blobs:
		ids := make([]digest.Digest, len(l.q.Layers))
		for i, layer := range l.q.Layers {
			ids[i] = layer.DiffID
		}
		l.have = l.engine.Prefix(ctx, ids, l.q.Names)
	}
	return nil
}

// refused takes note that the engine wants more than it got.
func (l *engineLoad) refused(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.have, l.told, l.wary = 0, false, true
	if l.store != engine.Graph || l.asked > 1 {
		return
	}
	for i, layer := range l.q.Layers {
		if strings.Contains(why.Error(), layer.Digest.Encoded()) {
			l.have, l.told = i, true
			return
		}
	}
}

func (l *engineLoad) open(md map[string]string) (io.WriteCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.wary && l.nameKnown(md) {
		l.ok = true
		return nil, nil
	}
	r, w := io.Pipe()
	l.done = make(chan struct{})
	a := &engineArchive{load: l, sparse: l.have > 0, w: w, done: l.done}
	platform := &l.q.Platform
	if !a.sparse || l.store != engine.Blobs {
		platform = nil
	}
	go func() { // ends when the engine has answered; Close or kill waits for it
		defer close(a.done)
		a.said, a.err = l.engine.Load(l.ctx, r, platform)
		r.Close() // whoever writes more sees that it is over
	}()
	return a, nil
}

func (l *engineLoad) nameKnown(md map[string]string) bool {
	ctx, cancel := context.WithTimeout(l.ctx, askTimeout)
	defer cancel()
	id, ok := l.engine.Tag(ctx, idsOf(md), namesOf(md))
	if ok {
		fmt.Fprintf(l.out, "%s has the image: %s\n", l.engine.Name(), id)
	}
	return ok
}

// An engineArchive is an archive on its way to the engine.
type engineArchive struct {
	load   *engineLoad
	sparse bool // layers are left out
	w      *io.PipeWriter
	done   chan struct{} // closed when the engine has answered, said and err being set
	said   string
	err    error
}

func (a *engineArchive) Write(p []byte) (int, error) {
	n, err := a.w.Write(p)
	if err != nil {
		if refused := a.Close(); refused != nil {
			err = refused
		}
	}
	return n, err
}

// Close ends the archive and returns what the engine thinks of it, to the daemon.
func (a *engineArchive) Close() error {
	a.w.Close()
	<-a.done
	switch {
	case a.err == nil:
		a.load.loaded(a.said)
	case a.sparse:
		a.load.refused(a.err)
		return status.Error(codes.Aborted, "the engine wants more of the image")
	default:
		a.load.failed(a.err)
	}
	return a.err
}

func (l *engineLoad) loaded(said string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ok {
		fmt.Fprint(l.out, said)
	}
	l.ok = true
}

func (l *engineLoad) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
}

func (l *engineLoad) wait(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && !l.ok {
		return fmt.Errorf("--load: the daemon sent no image")
	}
	return l.err
}

func (l *engineLoad) failure() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

func (l *engineLoad) kill() {
	l.cancel()
	l.mu.Lock()
	done := l.done
	l.mu.Unlock()
	if done != nil {
		<-done
	}
	l.engine.Close()
}
