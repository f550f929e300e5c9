package main

import (
	"context"
	"fmt"
	"maps"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
)

// A factFinder finds facts while the build runs.
type factFinder struct {
	done  chan struct{} // closed when facts and err are there
	facts *facts        // nil if nobody wants them
	err   error
	stop  context.CancelFunc
}

// startFacts begins to find out what is asked for. The file of --bidfile is written as soon
// as it can be, whatever becomes of the build.
func (a *app) startFacts(ctx context.Context, req *buildflags.Request, l *lent, files resultFiles, remote func(context.Context) (*facts, digest.Digest, error)) *factFinder {
	w := &factFinder{done: make(chan struct{}), stop: func() {}}
	if !req.WantsFacts {
		close(w.done)
		return w
	}
	if files.bid == "" {
		ctx, w.stop = context.WithCancel(ctx)
	}
	go func() {
		defer close(w.done)
		if w.facts, w.err = findFacts(ctx, req, l, remote); w.err != nil {
			w.err = fmt.Errorf("digest of the build context: %w", w.err)
			return
		}
		if files.bid != "" {
			if err := replace(files.bid, []byte(w.facts.context)); err != nil {
				w.err = fmt.Errorf("--bidfile: %w", err)
			}
		}
	}()
	return w
}

// wait waits until no files are being read any more. What only a successful build has use
// for, and nobody has asked for yet, is not found out.
func (w *factFinder) wait() {
	w.stop()
	<-w.done
}

func (w *factFinder) result() (*facts, error) {
	<-w.done
	return w.facts, w.err
}

// add adds the facts to what the daemon answered. That they could not be found is an error
// only if more than metadata depends on them.
func (w *factFinder) add(a *app, resp *client.SolveResponse, needed bool) error {
	f, err := w.result()
	switch {
	case err != nil && needed:
		return err
	case err != nil:
		a.warn("%v", err)
		return nil
	case f == nil:
		return nil
	}
	for _, path := range f.other {
		a.warn("%s is neither a file, a directory nor a link, and is not in the digest of the context", path)
	}
	if resp.ExporterResponse == nil {
		resp.ExporterResponse = map[string]string{} // nothing was exported
	}
	maps.Copy(resp.ExporterResponse, f.metadata())
	return nil
}
