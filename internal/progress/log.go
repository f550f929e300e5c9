package progress

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"
)

// statusPause is the shortest time between two events of one status line. What is
// reported in between is shown with the next event; completion is never held back.
const statusPause = 100 * time.Millisecond

// A Log is the append-only record of one vertex. All methods are safe for concurrent
// use, and on a nil Log do nothing.
//
// Locks are taken in the order Log, Stream: a Log tells the Streams it is attached to
// while it is locked, so that all of them see its events in one order.
type Log struct {
	mu     sync.Mutex
	events []any // *state, *status, *output or *Warning, oldest first
	last   state // what the newest *state says
	open   int   // intervals that were started and not closed
	err    error // of the intervals closed while another was open
	lines  map[string]*status
	subs   []*attachment
	links  []*Log
	out    outputBuffer
}

// A state is what a Log knows of a VertexState. It does not change once shared.
type state struct {
	started, completed *time.Time
	cached             bool
	err                string
}

// A status is a line under a vertex. It is kept once and updated in place, so that a
// long transfer costs no memory and a late reader sees only where it got to.
type status struct {
	Status           // under the Log's mu
	told   time.Time // when streams last heard of it
}

// NewLog returns an empty Log with the default Limits.
func NewLog() *Log { return NewLogLimits(Limits{}) }

// NewLogLimits returns an empty Log that keeps as much output as lim allows.
func NewLogLimits(lim Limits) *Log {
	return &Log{out: outputBuffer{limits: lim.withDefaults()}}
}

// Start opens an interval of work; done closes it, with the error that ended it.
// Intervals may overlap: the vertex is completed when the last one is closed. done may
// be called more than once; only the first call counts.
func (l *Log) Start() (done func(error)) { return l.begin(false) }

// Resume is Start for a vertex that was found in the cache and stays so: what is done is to
// get what was found.
func (l *Log) Resume() (done func(error)) { return l.begin(true) }

func (l *Log) begin(found bool) (done func(error)) {
	if l == nil {
		return func(error) {}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open++; l.open == 1 {
		l.err = nil
		now := time.Now()
		l.setState(state{started: &now, cached: found && l.last.cached})
	}
	closed := false // under mu
	return func(err error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if closed {
			return
		}
		closed = true
		if l.err == nil || errors.Is(l.err, context.Canceled) && err != nil {
			l.err = err
		}
		if l.open--; l.open == 0 {
			now := time.Now()
			l.setState(state{started: l.last.started, completed: &now, cached: l.last.cached, err: message(l.err)})
		}
	}
}

// Cached marks the vertex as found in the cache. While an interval is open it does
// nothing: the vertex is being worked on after all.
func (l *Log) Cached() {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open > 0 || l.last.cached {
		return
	}
	now := time.Now()
	l.setState(state{started: &now, completed: &now, cached: true})
}

// Status adds or updates the line with s.ID. A zero Timestamp means now. Frequent
// updates of one line are folded into one event.
func (l *Log) Status(s Status) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.setStatus(s)
}

// Warn adds a warning.
func (l *Log) Warn(w Warning) {
	if l == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.add(&w)
}

// Link makes other part of l: streams that l is attached to, now or later, also show
// the events of other, from its beginning, under the name they know l by. It is for
// work that turned out to be shared by two vertices.
func (l *Log) Link(other *Log) {
	if l == nil || other == nil || l == other {
		return
	}
	l.mu.Lock()
	for _, have := range l.links {
		if have == other {
			l.mu.Unlock()
			return
		}
	}
	l.links = append(l.links, other)
	subs := make([]*attachment, len(l.subs))
	copy(subs, l.subs)
	l.mu.Unlock()
	for _, a := range subs {
		a.stream.attachLog(other, a.vertex)
	}
}

// setState records a change of the vertex's state. l.mu is held.
func (l *Log) setState(s state) {
	l.last = s
	l.add(&s)
}

// setStatus records a line. l.mu is held.
func (l *Log) setStatus(s Status) {
	if s.Timestamp.IsZero() {
		s.Timestamp = time.Now()
	}
	line, ok := l.lines[s.ID]
	if !ok {
		line = &status{Status: s, told: s.Timestamp}
		if l.lines == nil {
			l.lines = make(map[string]*status)
		}
		l.lines[s.ID] = line
		l.add(line)
		return
	}
	quiet := s.Completed == nil && line.Completed == nil && s.Timestamp.Sub(line.told) < statusPause
	line.Status = s
	if quiet {
		return
	}
	line.told = s.Timestamp
	for _, a := range l.subs {
		a.stream.add(a, line)
	}
}

// add appends an event and tells the streams. l.mu is held.
func (l *Log) add(ev any) {
	l.events = append(l.events, ev)
	for _, a := range l.subs {
		a.stream.add(a, ev)
	}
}

// message is the text of err for a client. Clients tell a cancellation by its last
// words.
func message(err error) string {
	if err == nil {
		return ""
	}
	msg := err.Error()
	if canceled := context.Canceled.Error(); errors.Is(err, context.Canceled) && !strings.HasSuffix(msg, canceled) {
		msg += ": " + canceled
	}
	return msg
}

// Track is Status for one piece of work: it opens line id and returns the functions that
// update and complete it.
func (l *Log) Track(id string) *Tracker {
	if l == nil {
		return nil
	}
	now := time.Now()
	t := &Tracker{log: l, status: Status{ID: id, Timestamp: now, Started: &now}}
	l.Status(t.status)
	return t
}

// A Tracker is one line in progress. On a nil Tracker methods do nothing.
type Tracker struct {
	log    *Log
	status Status // under log.mu
}

// Set says how far the work got; total is zero if it is not known. Both are bytes.
func (t *Tracker) Set(current, total int64) {
	if t == nil {
		return
	}
	t.update(func(s *Status) { s.Current, s.Total = current, total })
}

// Done completes the line. Calls after the first do nothing.
func (t *Tracker) Done() {
	if t == nil {
		return
	}
	t.update(func(s *Status) { s.Completed = &s.Timestamp })
}

func (t *Tracker) update(change func(*Status)) {
	l := t.log
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.status.Completed != nil {
		return
	}
	s := t.status
	s.Timestamp = time.Now()
	change(&s)
	if s.Completed != nil {
		now := s.Timestamp
		s.Completed = &now
	}
	t.status = s
	l.setStatus(s)
}
