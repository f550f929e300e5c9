package snapshot

import (
	"context"
	"iter"
	"sync"

	"github.com/dbuild/dbuild/internal/flight"
	bksession "github.com/moby/buildkit/session"
)

// A conversion is work on a layer that all who want it share: a flight whose Access
// speaks for everybody who waits at the time it is used.
type conversion[K comparable, T any] struct {
	flights flight.Group[K, T]

	mu      sync.Mutex
	waiters map[*Access]struct{}
}

func (c *conversion[K, T]) do(ctx context.Context, s *Store, key K, a Access, fn func(context.Context, Access) (T, error)) (T, error) {
	me := &a
	c.mu.Lock()
	if c.waiters == nil {
		c.waiters = map[*Access]struct{}{}
	}
	c.waiters[me] = struct{}{}
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waiters, me)
	}()
	return c.flights.Do(ctx, key, func(ctx context.Context) (T, error) {
		var zero T
		if !s.enter() {
			return zero, errClosed
		}
		defer s.bg.Done()
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(s.life, cancel)()
		v, err := fn(ctx, Access{Group: waiterGroup(c.list), Log: a.Log})
		if err != nil && s.life.Err() != nil {
			err = errClosed
		}
		return v, err
	})
}

func (c *conversion[K, T]) list() []*Access {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]*Access, 0, len(c.waiters))
	for w := range c.waiters {
		list = append(list, w)
	}
	return list
}

// enter registers background work that Close waits for. The caller calls bg.Done.
func (s *Store) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.bg.Add(1)
	return true
}

// waiterGroup is a session group made of the groups of all current waiters, so that the
// credentials of any of them will do and a client that leaves takes nothing away.
type waiterGroup func() []*Access

func (g waiterGroup) SessionIterator() bksession.Iterator {
	var ids []string
	seen := map[string]bool{}
	for _, a := range g() {
		for id := range sessions(a.Group) {
			if !seen[id] {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	return &idIterator{ids}
}

type idIterator struct{ ids []string }

func (it *idIterator) NextSession() string {
	if len(it.ids) == 0 {
		return ""
	}
	id := it.ids[0]
	it.ids = it.ids[1:]
	return id
}

func sessions(g bksession.Group) iter.Seq[string] {
	return func(yield func(string) bool) {
		if g == nil {
			return
		}
		it := g.SessionIterator()
		if it == nil {
			return
		}
		for id := it.NextSession(); id != ""; id = it.NextSession() {
			if !yield(id) {
				return
			}
		}
	}
}
