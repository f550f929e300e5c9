package snapshot

import (
	"io"
	"runtime"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// zstdChunk is what one goroutine compresses at a time, into a frame of its own: as much as
// the encoder at its fastest looks back. It shapes the output: changing it changes the
// digest of every layer.
const zstdChunk = 4 << 20

// maxZstdWorkers bounds the memory of one layer, on machines with very many CPUs.
const maxZstdWorkers = 8

// A chunked writer compresses chunks on all CPUs and writes the frames in order. A stream of
// zstd uses little more than one CPU.
type chunked struct {
	enc   *zstd.Encoder
	cur   *frame      // being filled
	free  chan *frame // bounds memory
	order chan *frame // as they are to be written
	done  chan struct{}
	any   bool // a frame was dispatched

	mu  sync.Mutex
	err error // of writing
}

// A frame is a chunk and what became of it. Its memory is used again and again.
type frame struct {
	chunk, out []byte
	made       chan struct{}
}

func newChunked(w io.Writer) (*chunked, error) {
	workers := min(runtime.GOMAXPROCS(0), maxZstdWorkers)
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(workers), zstd.WithZeroFrames(true))
	if err != nil {
		return nil, err
	}
	// One more is being written.
	c := &chunked{enc: enc, free: make(chan *frame, workers+1), order: make(chan *frame, workers+1), done: make(chan struct{})}
	for range workers {
		c.free <- &frame{made: make(chan struct{}, 1)}
	}
	c.cur = &frame{made: make(chan struct{}, 1)}
	go c.deliver(w)
	return c, nil
}

// deliver writes the frames until the last.
func (c *chunked) deliver(w io.Writer) {
	defer close(c.done)
	for f := range c.order {
		<-f.made
		if c.failed() == nil {
			if _, err := w.Write(f.out); err != nil {
				c.mu.Lock()
				c.err = err
				c.mu.Unlock()
			}
		}
		c.free <- f
	}
}

func (c *chunked) failed() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Write compresses p, sooner or later.
func (c *chunked) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		if err := c.failed(); err != nil {
			return n, err
		}
		if c.cur == nil {
			c.cur = <-c.free
			c.cur.chunk = c.cur.chunk[:0]
		}
		k := min(len(p), zstdChunk-len(c.cur.chunk))
		c.cur.chunk = append(c.cur.chunk, p[:k]...)
		n, p = n+k, p[k:]
		if len(c.cur.chunk) == zstdChunk {
			c.dispatch()
		}
	}
	return n, nil
}

func (c *chunked) dispatch() {
	f := c.cur
	c.cur, c.any = nil, true
	c.order <- f
	go func() {
		f.out = c.enc.EncodeAll(f.chunk, f.out[:0])
		f.made <- struct{}{}
	}()
}

// Close writes what is left and waits for all goroutines. Nothing at all is an empty frame.
func (c *chunked) Close() error {
	if c.cur != nil && (len(c.cur.chunk) > 0 || !c.any) {
		c.dispatch()
	}
	close(c.order)
	<-c.done
	return c.failed()
}
