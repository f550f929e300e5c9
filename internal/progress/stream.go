package progress

import (
	"context"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
)

// A Stream is what one build shows: the Logs attached to it, under that build's names.
// Methods on a nil Stream do nothing.
type Stream struct {
	mu       sync.Mutex
	byDigest map[digest.Digest]*vertex
	vertices []*vertex                   // in order of first attachment
	items    []item                      // everything that happened, in order
	early    map[digest.Digest][]Warning // of vertices that are not shown yet
	closed   bool
	done     chan struct{} // closed with the Stream
	waiting  int           // readers waiting for wake
	wake     chan struct{} // closed, and replaced, when there is news and somebody waits
}

// A vertex is a Vertex of one Stream. Its fields are under the Stream's mu.
type vertex struct {
	Vertex
	last state
	done bool // completed once, without an error
	logs []*attachment
}

// An attachment is one Log of one vertex. It does not change.
type attachment struct {
	stream *Stream
	vertex *vertex
	log    *Log
}

// An item is one event of a Stream: ev is as in Log.events, but a *state may also be
// the Stream's own.
type item struct {
	vertex *vertex
	log    *Log // nil if ev is the Stream's own
	ev     any
}

// NewStream returns a Stream with nothing attached.
func NewStream() *Stream {
	return &Stream{
		byDigest: make(map[digest.Digest]*vertex),
		done:     make(chan struct{}),
		wake:     make(chan struct{}),
	}
}

// Attach adds l under the name v; attaching the same digest again changes the name only.
// Everything l already recorded is shown.
func (s *Stream) Attach(l *Log, v Vertex) {
	if s == nil {
		return
	}
	s.mu.Lock()
	vx, ok := s.byDigest[v.Digest]
	switch {
	case s.closed:
		s.mu.Unlock()
		return
	case !ok:
		vx = &vertex{Vertex: v}
		s.byDigest[v.Digest] = vx
		s.vertices = append(s.vertices, vx)
		s.push(item{vertex: vx, ev: &state{}})
		for _, w := range s.early[v.Digest] {
			s.push(item{vertex: vx, ev: &w})
		}
		delete(s.early, v.Digest)
	case vx.Name != v.Name:
		vx.Vertex = v
		st := vx.last
		s.push(item{vertex: vx, ev: &st})
	}
	s.mu.Unlock()
	if l != nil {
		s.attachLog(l, vx)
	}
}

// attachLog shows l, and what is linked to it, under vx.
func (s *Stream) attachLog(l *Log, vx *vertex) {
	l.mu.Lock()
	s.mu.Lock()
	have := s.closed
	for _, a := range vx.logs {
		have = have || a.log == l
	}
	if !have {
		a := &attachment{s, vx, l}
		vx.logs = append(vx.logs, a)
		l.subs = append(l.subs, a)
		for _, ev := range l.events {
			s.addLocked(a, ev)
		}
	}
	s.mu.Unlock()
	links := l.links // append-only
	l.mu.Unlock()
	if have {
		return // so a cycle of links ends
	}
	for _, other := range links {
		s.attachLog(other, vx)
	}
}

// add records an event of a's log, whose mu is held.
func (s *Stream) add(a *attachment, ev any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addLocked(a, ev)
}

func (s *Stream) addLocked(a *attachment, ev any) {
	if s.closed {
		return
	}
	if st, ok := ev.(*state); ok {
		a.vertex.last = *st
		a.vertex.done = a.vertex.done || st.completed != nil && st.err == ""
		if st.started != nil {
			s.markInputs(a.vertex, st.started)
		}
	}
	s.push(item{a.vertex, a.log, ev})
}

// markInputs shows as cached whatever v was made from without being looked at: v can
// only have started because its inputs were there. s.mu is held.
func (s *Stream) markInputs(v *vertex, at *time.Time) {
	type visit struct {
		v    *vertex
		next int // index of the input to look at next
	}
	// Depth first, so that what was made first is shown first; not recursive, since
	// chains may be long.
	path := []visit{{v: v}}
	for len(path) > 0 {
		here := &path[len(path)-1]
		if here.next == len(here.v.Inputs) {
			if here.v != v {
				st := here.v.last
				s.push(item{vertex: here.v, ev: &st})
			}
			path = path[:len(path)-1]
			continue
		}
		in := s.byDigest[here.v.Inputs[here.next]]
		here.next++
		if in == nil || in == v || in.last.started != nil || in.last.completed != nil {
			continue
		}
		in.last = state{started: at, completed: at, cached: true}
		path = append(path, visit{v: in})
	}
}

// Warn adds a warning to the vertex with digest d, if the stream shows it, and reports
// whether it does.
func (s *Stream) Warn(d digest.Digest, w Warning) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.byDigest[d]
	if v == nil || s.closed {
		return false
	}
	s.push(item{vertex: v, ev: &w})
	return true
}

// WarnLater keeps a warning until the vertex with digest d is attached.
func (s *Stream) WarnLater(d digest.Digest, w Warning) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.early == nil {
		s.early = map[digest.Digest][]Warning{}
	}
	s.early[d] = append(s.early[d], w)
}

// Unshown returns the warnings about vertices that have not been attached, and gives them
// up.
func (s *Stream) Unshown() []Warning {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Warning
	for _, d := range slices.Sorted(maps.Keys(s.early)) {
		out = append(out, s.early[d]...)
	}
	s.early = nil
	return out
}

// push appends an item and wakes the readers. s.mu is held.
func (s *Stream) push(it item) {
	s.items = append(s.items, it)
	s.news()
}

func (s *Stream) news() {
	if s.waiting > 0 {
		close(s.wake)
		s.wake = make(chan struct{})
		s.waiting = 0
	}
}

// Close ends the stream. Vertices still open are completed as canceled.
func (s *Stream) Close() {
	if s == nil {
		return
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	now := time.Now()
	for _, v := range s.vertices {
		if v.last.started != nil && v.last.completed == nil {
			v.last = state{started: v.last.started, completed: &now}
			if !v.done { // else its layers are being fetched for another build
				v.last.err = context.Canceled.Error()
			}
			st := v.last
			s.push(item{vertex: v, ev: &st})
		}
	}
	s.closed = true
	close(s.done)
	s.news()
	s.mu.Unlock()

	// Nothing is attached any more, so vertices and their logs do not change.
	for _, v := range s.vertices {
		for _, a := range v.logs {
			a.log.unsubscribe(a)
		}
	}
}

func (l *Log) unsubscribe(a *attachment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, have := range l.subs {
		if have == a {
			last := len(l.subs) - 1
			l.subs[i], l.subs[last] = l.subs[last], nil
			l.subs = l.subs[:last]
			return
		}
	}
}

// A Reader follows a Stream from its beginning. It is for one goroutine.
type Reader struct {
	s    *Stream
	next int // index of the first item not read
}

// Reader returns a Reader that starts with the first event. Any number may be open.
func (s *Stream) Reader() *Reader { return &Reader{s: s} }

// Next returns the events since the last call, waiting for at least one and gathering
// those that arrive within gather. It returns io.EOF when the stream was closed and
// everything was read.
func (r *Reader) Next(ctx context.Context, gather time.Duration) ([]Event, error) {
	s := r.s
	if s == nil {
		return nil, io.EOF
	}
	s.mu.Lock()
	for r.next == len(s.items) {
		if s.closed {
			s.mu.Unlock()
			return nil, io.EOF
		}
		s.waiting++
		wake := s.wake
		s.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		s.mu.Lock()
	}
	if gather > 0 && !s.closed {
		s.mu.Unlock()
		timer := time.NewTimer(gather)
		select {
		case <-timer.C:
		case <-s.done:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.mu.Lock()
	}
	items := s.items[r.next:len(s.items):len(s.items)] // append-only
	r.next = len(s.items)
	events := make([]Event, 0, len(items))
	for _, it := range items {
		// Names are under s.mu, the contents of lines and output under the log's,
		// which must not be taken while s.mu is held.
		if st, ok := it.ev.(*state); ok {
			events = append(events, Event{Digest: it.vertex.Digest, Vertex: &VertexState{
				Vertex: it.vertex.Vertex, Started: st.started, Completed: st.completed,
				Cached: st.cached, Error: st.err,
			}})
		} else {
			events = append(events, Event{Digest: it.vertex.Digest})
		}
	}
	s.mu.Unlock()
	return fill(events, items), nil
}

// fill completes the events that are read from logs, and drops repetitions of a line:
// each would show what the line says now.
func fill(events []Event, items []item) []Event {
	seen := make(map[*status]bool)
	out := events[:0]
	for i, it := range items {
		e := events[i]
		switch ev := it.ev.(type) {
		case *status:
			if seen[ev] {
				continue
			}
			seen[ev] = true
			it.log.mu.Lock()
			st := ev.Status
			it.log.mu.Unlock()
			e.Status = &st
		case *output:
			it.log.mu.Lock()
			ev.sealed = true
			e.Output = &Output{Stream: ev.stream, Data: ev.data, Timestamp: ev.at}
			it.log.mu.Unlock()
		case *Warning:
			e.Warning = ev
		}
		out = append(out, e)
	}
	return out
}
