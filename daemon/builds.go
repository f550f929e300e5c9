package daemon

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/progress"
)

const (
	// keepEnded is how long the status of a build that ended can still be asked for: a
	// fast build may be over before its client's Status call arrives.
	keepEnded = 30 * time.Second
	// maxEnded bounds how many ended builds are kept.
	maxEnded = 256
	// waitForBuild is how long a Status call waits for a build that is not yet here.
	waitForBuild = 6 * time.Second
)

// add makes a build known under its id.
func (d *Daemon) add(b *build) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.builds[b.id]; ok {
		return errdefs.ErrAlreadyExists.WithMessage(fmt.Sprintf("a build with the ref %s is running", b.id))
	}
	d.builds[b.id] = b
	close(d.added)
	d.added = make(chan struct{})
	return nil
}

// remove ends a build; its status can be read for a while longer.
func (d *Daemon) remove(b *build) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.builds, b.id)
	now := time.Now()
	keep := d.ended[:0]
	for i, e := range d.ended {
		if now.Sub(e.at) < keepEnded && len(d.ended)-i < maxEnded {
			keep = append(keep, e)
		}
	}
	clear(d.ended[len(keep):])
	d.ended = append(keep, finished{b.id, b.stream, now})
	select {
	case d.gc <- struct{}{}:
	default:
	}
}

// find returns what the build with an id shows, waiting a little for one that is about
// to start.
func (d *Daemon) find(ctx context.Context, id string) (*progress.Stream, error) {
	timeout := time.NewTimer(waitForBuild)
	defer timeout.Stop()
	for {
		d.mu.Lock()
		added := d.added
		d.mu.Unlock()
		if stream := d.known(id); stream != nil {
			return stream, nil
		}
		select {
		case <-added:
		case <-timeout.C:
			return nil, errNoBuild(id)
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// known returns what a build that runs, or has just ended, shows; or nil.
func (d *Daemon) known(id string) *progress.Stream {
	d.mu.Lock()
	defer d.mu.Unlock()
	if b, ok := d.builds[id]; ok {
		return b.stream
	}
	for _, e := range slices.Backward(d.ended) {
		if e.id == id {
			return e.stream
		}
	}
	return nil
}

// finished is what a build that has ended showed, kept a while for clients that ask late.
type finished struct {
	id     string
	stream *progress.Stream
	at     time.Time
}
