package progress

import (
	"fmt"
	"time"
)

// Limits bound what one Log keeps of the output of processes. Zero means the default,
// a negative number no limit.
type Limits struct {
	Size  int64 // bytes in all; default 2 MiB
	Speed int64 // bytes per second, on average since the first output; default 200 KiB
}

// Default limits.
const (
	DefaultSize  = 2 << 20
	DefaultSpeed = 200 << 10
)

func (l Limits) withDefaults() Limits {
	if l.Size == 0 {
		l.Size = DefaultSize
	}
	if l.Speed == 0 {
		l.Speed = DefaultSpeed
	}
	return l
}

const (
	minChunk = 1 << 10
	maxChunk = 32 << 10
	// joinWithin is how long a piece of output may grow: pieces written closer together
	// share one event and its time.
	joinWithin = 20 * time.Millisecond
)

// An outputBuffer keeps output in chunks that are filled once and never moved, so
// that events can point into them. It is guarded by its Log's mu.
type outputBuffer struct {
	limits  Limits
	chunk   []byte  // being filled
	last    *output // the newest event, if it is output and may grow
	first   time.Time
	kept    int64
	clipped string // the limit that was hit and announced, "" while output is kept
}

// An output is a piece of what a process printed.
type output struct {
	stream int
	data   []byte // in a chunk
	at     time.Time
	sealed bool // somebody has seen it: it must not grow
}

// Output returns a writer for stream 1 or 2 of a process. What it drops it says.
func (l *Log) Output(stream int) *Writer {
	if l == nil {
		return nil
	}
	return &Writer{log: l, stream: stream}
}

// A Writer records what is written to it in a Log, within the Log's Limits. It never
// fails and never blocks. On a nil Writer methods do nothing.
type Writer struct {
	log    *Log
	stream int
}

// Write records p. It does not keep p.
func (w *Writer) Write(p []byte) (int, error) {
	if w == nil || len(p) == 0 {
		return len(p), nil
	}
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	keep, limit := l.out.allow(len(p), now)
	l.append(w.stream, p[:keep], now)
	if limit != "" && limit != l.out.clipped {
		l.append(w.stream, fmt.Appendf(nil, "\n[output clipped, log limit %s reached]\n", limit), now)
	}
	l.out.clipped = limit
	return len(p), nil
}

// Close does nothing; it is there so that a Writer can be handed to a process.
func (w *Writer) Close() error { return nil }

// allow returns how many of the next n bytes may be kept, and the limit that forbids
// the others.
func (o *outputBuffer) allow(n int, now time.Time) (keep int, limit string) {
	if o.kept == 0 {
		o.first = now
	}
	left := int64(n)
	if max := o.limits.Speed; max >= 0 {
		// The first second is granted at once, and silence earns a burst.
		budget := int64(float64(max)*(1+now.Sub(o.first).Seconds())) - o.kept
		if budget < left {
			left, limit = budget, size(max)+"/s"
		}
	}
	if max := o.limits.Size; max >= 0 && max-o.kept < left {
		left, limit = max-o.kept, size(max)
	}
	left = max(left, 0)
	o.kept += left
	return int(left), limit
}

// append records data as it is. l.mu is held.
func (l *Log) append(stream int, data []byte, now time.Time) {
	o := &l.out
	for len(data) > 0 {
		if len(o.chunk) == cap(o.chunk) {
			// Small for the many steps that say little, large for those that do not stop.
			o.chunk = make([]byte, 0, min(max(2*cap(o.chunk), minChunk, len(data)), maxChunk))
			o.last = nil
		}
		start := len(o.chunk)
		n := min(len(data), cap(o.chunk)-start)
		o.chunk = append(o.chunk, data[:n]...)
		data = data[n:]
		if p := o.last; p != nil && !p.sealed && p.stream == stream &&
			now.Sub(p.at) < joinWithin && l.events[len(l.events)-1] == any(p) {
			p.data = o.chunk[start-len(p.data) : len(o.chunk) : len(o.chunk)]
			continue
		}
		o.last = &output{stream: stream, data: o.chunk[start:len(o.chunk):len(o.chunk)], at: now}
		l.add(o.last)
	}
}

// size prints n as limits are printed: 2MiB, 200KiB, 100B.
func size(n int64) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dKiB", n>>10)
	}
	return fmt.Sprintf("%dB", n)
}
