package snapshot

import (
	"context"
	"io"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// readAhead reads r in a goroutine, so that its producer and its consumer each have a
// CPU. It holds at most aheadChunks chunks. Close ends the goroutine once the Read of r
// under way returns.
func readAhead(r io.Reader) io.ReadCloser {
	a := &ahead{full: make(chan chunk, aheadChunks), free: make(chan []byte, aheadChunks), stop: make(chan struct{})}
	for range aheadChunks {
		a.free <- make([]byte, aheadSize)
	}
	a.wg.Go(func() {
		defer close(a.full)
		for {
			var buf []byte
			select {
			case buf = <-a.free:
			case <-a.stop:
				return
			}
			n, err := io.ReadFull(r, buf[:cap(buf)])
			if err == io.ErrUnexpectedEOF {
				err = io.EOF
			}
			a.full <- chunk{buf[:n], err} // fits: there are as many chunks as places
			if err != nil {
				return
			}
		}
	})
	return a
}

const (
	aheadChunks = 8
	aheadSize   = 128 << 10
)

type chunk struct {
	data []byte
	err  error
}

type ahead struct {
	full chan chunk
	free chan []byte
	stop chan struct{}
	once sync.Once
	wg   sync.WaitGroup
	cur  chunk
	buf  []byte // what cur.data was cut from
}

func (a *ahead) Read(p []byte) (int, error) {
	for len(a.cur.data) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.buf != nil {
			a.free <- a.buf
			a.buf = nil
		}
		c, ok := <-a.full
		if !ok {
			return 0, io.ErrClosedPipe
		}
		a.cur, a.buf = c, c.data
	}
	n := copy(p, a.cur.data)
	a.cur.data = a.cur.data[n:]
	return n, nil
}

func (a *ahead) Close() error {
	a.once.Do(func() { close(a.stop) })
	a.wg.Wait()
	return nil
}

// openLocal reads a blob of the content store; the reader can seek.
func (s *Store) openLocal(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	ra, err := s.cs.ReaderAt(s.ctx(ctx), d)
	if err != nil {
		return nil, err
	}
	return struct {
		io.ReadSeeker
		io.Closer
	}{io.NewSectionReader(ra, 0, ra.Size()), ra}, nil
}
