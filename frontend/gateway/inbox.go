package gateway

import (
	"context"
	"io"
	"sync"
)

// maxInbox is how much input may wait for a process. More is not received: that holds back
// the whole stream, signals too, so a process should have some room not to read.
const maxInbox = 1 << 20

// An inbox is the standard input of a process whose client sends it in messages.
type inbox struct {
	mu      sync.Mutex
	waiting []byte
	ended   bool          // nothing follows
	closed  bool          // nobody reads
	changed chan struct{} // closed and replaced when something above changes
}

func newInbox() *inbox { return &inbox{changed: make(chan struct{})} }

// change does f and wakes those who wait.
func (b *inbox) change(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
	close(b.changed)
	b.changed = make(chan struct{})
}

// put adds data when there is room, or drops it if nobody reads any more.
func (b *inbox) put(ctx context.Context, data []byte) error {
	for {
		b.mu.Lock()
		room, changed := len(b.waiting) < maxInbox || b.closed, b.changed
		b.mu.Unlock()
		if room {
			b.change(func() {
				if !b.closed && !b.ended {
					b.waiting = append(b.waiting, data...)
				}
			})
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// end says that nothing follows.
func (b *inbox) end() { b.change(func() { b.ended = true }) }

// Close says that nobody reads. It ends a Read.
func (b *inbox) Close() error {
	b.change(func() { b.closed, b.waiting = true, nil })
	return nil
}

// Read waits for input.
func (b *inbox) Read(p []byte) (int, error) {
	for {
		b.mu.Lock()
		waiting, ended, closed, changed := len(b.waiting), b.ended, b.closed, b.changed
		b.mu.Unlock()
		switch {
		case closed:
			return 0, io.ErrClosedPipe
		case waiting > 0:
			n := 0
			b.change(func() {
				n = copy(p, b.waiting)
				if b.waiting = b.waiting[n:]; len(b.waiting) == 0 {
					b.waiting = nil
				}
			})
			return n, nil
		case ended:
			return 0, io.EOF
		}
		<-changed
	}
}
