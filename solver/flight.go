package solver

import (
	"context"
	"errors"
	"runtime/debug"

	core "github.com/dbuild/dbuild/internal/flight"
)

// A flight computes one value at most once at a time and shares it.
//
//	idle ──need──▶ running ──▶ done
//	  ▲               │          │
//	  └──last waiter──┴──forget──┘
//	       leaves
//
// Unlike internal/flight.Flight, whose callers block, a flight's computation may wait
// for other flights without occupying a goroutine: graphs of ten thousand vertices are
// as many waits. fn is one of
//
//   - a leaf, which does its work and returns; it may block, and it needs no flight;
//   - a step, which reads the values it needs with attempt.need. While some are
//     missing it returns errWait and is called again, from its first line, when they
//     are there or one has failed. What it wants to keep between calls is in
//     attempt.mem.
//
// Every wait is by a running attempt, for a running attempt; the roots are Job.Build.
// All fields of flights and attempts are guarded by Solver.mu unless said otherwise.
type flight struct {
	fn       func(*attempt) (any, error) // constant; never returns nil, nil
	limit    *limiter                    // constant; how many leaves like this may run at once, nil for all
	remember bool                        // constant; errors made here stay for the jobs that waited

	now    *attempt // nil unless running
	val    any      // nil unless done
	failed map[*Job]error
}

// errWait is what a step returns when something it needs is not there yet.
var errWait = errors.New("waiting")

// An attempt is one computation of a flight. If all waiters leave it is dead: the
// flight forgets it at once, and what it still returns is thrown away.
type attempt struct {
	s   *Solver
	f   *flight
	job *Job          // whose Build this is, for a root; nil otherwise
	end chan struct{} // closed when a root ends

	ctx     context.Context // made when first asked for
	cancel  context.CancelFunc
	waiters []*attempt // never empty while running, except for a root
	needs   []*attempt // what was waited for since fn was last called
	pending int        // how many of needs have not ended
	err     error      // the first error among needs
	busy    bool       // fn runs, or is about to
	dead    bool
	ended   bool
	val     any // of a root that ended
	valErr  error

	// These belong to fn while busy and to the engine otherwise.
	mem    memory
	subErr error      // why fn was called again, if something it needs failed
	ready  []*attempt // attempts that fn's needs started; under Solver.mu
}

// A memory is what a step keeps between its calls.
type memory interface {
	// drop lets go of what is held. Solver.mu is held.
	drop(s *Solver)
}

// A limiter grants slots in the order they were asked for.
type limiter struct {
	free  int
	queue []*attempt
}

// need returns the value of f, starting it if need be, or nil if a must wait. An
// *answer is held for the caller, who has to drop it.
func (a *attempt) need(f *flight) any {
	s := a.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.val != nil {
		if ans, ok := f.val.(*answer); ok {
			ans.uses++
		}
		return f.val
	}
	if a.dead || a.err != nil {
		return nil
	}
	if err := f.failedFor(a); err != nil {
		a.err = err
		return nil
	}
	sub := f.now
	if sub == nil {
		sub = &attempt{s: s, f: f}
		f.now = sub
		a.ready = sub.start(a.ready)
	}
	sub.waiters = append(sub.waiters, a)
	a.needs = append(a.needs, sub)
	a.pending++
	return nil
}

// start makes a ready, or queues it. s.mu is held.
func (a *attempt) start(ready []*attempt) []*attempt {
	if l := a.f.limit; l != nil {
		if l.free == 0 {
			l.queue = append(l.queue, a)
			return ready
		}
		l.free--
	}
	a.busy = true
	return append(ready, a)
}

// release gives a slot back, to the first in the queue. s.mu is held.
func (l *limiter) release(ready []*attempt) []*attempt {
	for len(l.queue) > 0 {
		a := l.queue[0]
		l.queue[0] = nil
		l.queue = l.queue[1:]
		if !a.dead {
			a.busy = true
			return append(ready, a)
		}
	}
	l.free++
	return ready
}

// context is cancelled when nobody waits for a any more. It carries no values: shared
// work must not see those of one caller.
func (a *attempt) context() context.Context {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	if a.ctx == nil {
		a.ctx, a.cancel = context.WithCancel(context.Background())
		if a.dead {
			a.cancel()
		}
	}
	return a.ctx
}

// work runs a, and then whatever that made ready. Of several, all but one get their
// own goroutine: any of them may block.
func (s *Solver) work(a *attempt) {
	for a != nil {
		ready := s.advance(a)
		if a = nil; len(ready) > 0 {
			a = ready[0]
			s.spawn(ready[1:])
		}
	}
	s.mu.Lock()
	defer s.unlock()
	s.addWorkers(-1)
}

func (s *Solver) spawn(ready []*attempt) {
	if len(ready) == 0 {
		return
	}
	s.mu.Lock()
	s.addWorkers(len(ready))
	s.mu.Unlock()
	for _, a := range ready {
		go s.work(a)
	}
}

// advance calls fn once and returns what is ready then.
func (s *Solver) advance(a *attempt) (ready []*attempt) {
	s.mu.Lock()
	defer s.unlock()
	if a.dead {
		return s.finish(a, nil, context.Canceled, nil)
	}
	a.subErr, a.err = a.err, nil
	s.detach(a)
	a.pending = 0
	s.unlock()

	val, err := a.call()

	s.mu.Lock()
	ready, a.ready = a.ready, nil
	if err != errWait || a.dead {
		return s.finish(a, val, err, ready)
	}
	if a.pending == 0 || a.err != nil {
		return append(ready, a)
	}
	a.busy = false
	return ready
}

func (a *attempt) call() (val any, err error) {
	defer func() {
		if r := recover(); r != nil {
			val, err = nil, &core.PanicError{Value: r, Stack: debug.Stack()}
		}
	}()
	return a.f.fn(a)
}

// finish ends a and wakes its waiters. s.mu is held.
func (s *Solver) finish(a *attempt, val any, err error, ready []*attempt) []*attempt {
	a.ended, a.busy = true, false
	if a.f.limit != nil {
		ready = a.f.limit.release(ready)
	}
	if a.mem != nil {
		a.mem.drop(s)
		a.mem = nil
	}
	if a.cancel != nil {
		a.cancel()
	}
	if a.dead {
		if err == nil {
			s.discard(val)
		}
		return ready
	}
	s.detach(a)
	if a.end != nil {
		a.val, a.valErr = val, err
		close(a.end)
		return ready
	}
	f := a.f
	f.now = nil
	if err == nil {
		f.val = val
	} else if f.remember && err != a.subErr && lasting(err) {
		if f.failed == nil {
			f.failed = make(map[*Job]error)
		}
		for _, j := range a.jobs() {
			f.failed[j] = err
		}
	}
	for _, w := range a.waiters {
		w.pending--
		if err != nil && w.err == nil {
			w.err = err
		}
		if !w.busy && (w.pending == 0 || w.err != nil) {
			w.busy = true
			ready = append(ready, w)
		}
	}
	a.waiters = nil
	return ready
}

// lasting reports whether err would be the same if the same build tried again.
func lasting(err error) bool {
	var lost *LostError
	return !errors.As(err, &lost) && !errors.Is(err, context.Canceled)
}

// detach makes a leave what it waits for. s.mu is held.
func (s *Solver) detach(a *attempt) {
	for _, sub := range a.leave(nil) {
		s.kill(sub)
	}
}

// kill abandons a, which has no waiters left. s.mu is held.
func (s *Solver) kill(a *attempt) {
	for todo := []*attempt{a}; len(todo) > 0; {
		a := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		a.dead = true
		if a.f.now == a {
			a.f.now = nil
		}
		if a.cancel != nil {
			a.cancel()
		}
		todo = a.leave(todo)
		if !a.busy && a.mem != nil {
			a.mem.drop(s)
			a.mem = nil
		}
	}
}

// leave takes a out of the waiters of what it needs, and appends those that have none
// left to orphans. s.mu is held.
func (a *attempt) leave(orphans []*attempt) []*attempt {
	for _, sub := range a.needs {
		if sub.ended || sub.dead {
			continue
		}
		for i, w := range sub.waiters {
			if w == a {
				last := len(sub.waiters) - 1
				sub.waiters[i], sub.waiters[last] = sub.waiters[last], nil
				sub.waiters = sub.waiters[:last]
				break
			}
		}
		if len(sub.waiters) == 0 {
			orphans = append(orphans, sub)
		}
	}
	a.needs = nil
	return orphans
}

// jobs returns the jobs that wait for a, directly or not. s.mu is held.
func (a *attempt) jobs() []*Job {
	var jobs []*Job
	seen := map[*attempt]bool{a: true}
	for todo := []*attempt{a}; len(todo) > 0; {
		a := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if a.job != nil {
			jobs = append(jobs, a.job)
		}
		for _, w := range a.waiters {
			if !seen[w] {
				seen[w] = true
				todo = append(todo, w)
			}
		}
	}
	return jobs
}

// failedFor returns the failure that every job waiting for a has already seen. If one
// has not, it is entitled to its own attempt, and the others share it.
func (f *flight) failedFor(a *attempt) (err error) {
	if len(f.failed) == 0 {
		return nil
	}
	for _, j := range a.jobs() {
		if err = f.failed[j]; err == nil {
			return nil
		}
	}
	return err
}
