package local

import (
	"context"
	"sync"

	"github.com/tonistiigi/fsutil/types"
)

// window is how many files are asked for and not complete at any time. It bounds open
// files and, with small, memory.
const window = 512

// A requests asks the client for files, in order, from a goroutine of its own: whoever
// receives must never wait until something can be sent, because the client may not read
// before it has sent. When all files are complete it ends the transfer.
type requests struct {
	mu       sync.Mutex
	queue    []uint32
	inflight int
	listed   bool // nothing more will be added
	wake     chan struct{}
}

func newRequests() *requests { return &requests{wake: make(chan struct{}, 1)} }

func (r *requests) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// add asks for a file.
func (r *requests) add(id uint32) {
	r.mu.Lock()
	r.queue = append(r.queue, id)
	r.mu.Unlock()
	r.signal()
}

// done says that a file is complete.
func (r *requests) done() {
	r.mu.Lock()
	r.inflight--
	r.mu.Unlock()
	r.signal()
}

// end says that the client has listed all it has.
func (r *requests) end() {
	r.mu.Lock()
	r.listed = true
	r.mu.Unlock()
	r.signal()
}

// run sends until the transfer is complete, then says so to the client.
func (r *requests) run(ctx context.Context, stream Stream) error {
	var batch []uint32
	for {
		r.mu.Lock()
		n := max(0, min(window-r.inflight, len(r.queue)))
		batch = append(batch[:0], r.queue[:n]...)
		r.queue = r.queue[n:]
		r.inflight += n
		complete := r.listed && r.inflight == 0 && len(r.queue) == 0
		r.mu.Unlock()
		for _, id := range batch {
			if err := stream.SendMsg(&types.Packet{Type: types.PACKET_REQ, ID: id}); err != nil {
				return sendError(ctx, err)
			}
		}
		if complete {
			if err := stream.SendMsg(&types.Packet{Type: types.PACKET_FIN}); err != nil {
				return sendError(ctx, err)
			}
			return sendError(ctx, flush(stream))
		}
		if n > 0 {
			continue
		}
		if err := flush(stream); err != nil {
			return sendError(ctx, err)
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// flush sends what a stream may hold back.
func flush(stream Stream) error {
	if l, ok := stream.(*lane); ok {
		return l.flush()
	}
	return nil
}

// sendError drops an error of sending: a stream that is broken gives its reason to the
// receiver, which ends ctx.
func sendError(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	<-ctx.Done()
	return context.Cause(ctx)
}
