// Package flight computes something once for all who want it.
//
//	idle ──Do──▶ running ──▶ done
//	  ▲             │          │
//	  └─last waiter─┴──Forget──┘
//	      leaves
//
// The work belongs to everybody who waits for it and to nobody in particular: its
// context carries no caller's values or deadline, and is cancelled only when the last
// waiter has left. Values are remembered, errors are not.
package flight

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
)

// A Flight is one value, computed when first wanted. The zero Flight is ready to use;
// it must not be copied. All methods are safe for concurrent use.
type Flight[T any] struct {
	// Discard, if set, is called with a value that was computed but reaches nobody: the
	// waiters had left, and a later call has computed or is computing it again. Set it
	// before the first Do.
	Discard func(T)

	mu   sync.Mutex
	call *call[T] // nil unless running
	val  T        // valid if done
	done bool
}

type call[T any] struct {
	cancel   context.CancelFunc
	waiters  int           // under the Flight's mu; the call is abandoned when it falls to 0
	finished chan struct{} // closed when val and err are valid
	val      T
	err      error
}

// Do returns the remembered value; or what the call of fn now under way returns; or
// calls fn itself. It returns early with the cause of ctx's end; fn goes on if others
// wait for it, and is cancelled if not. An error of fn goes to all who waited and to
// nobody else: the next Do tries again.
func (f *Flight[T]) Do(ctx context.Context, fn func(context.Context) (T, error)) (T, error) {
	var zero T
	f.mu.Lock()
	if f.done {
		defer f.mu.Unlock()
		return f.val, nil
	}
	if ctx.Err() != nil {
		f.mu.Unlock()
		return zero, context.Cause(ctx)
	}
	c := f.call
	if c == nil {
		work, cancel := context.WithCancel(context.Background())
		c = &call[T]{cancel: cancel, finished: make(chan struct{})}
		f.call = c
		go f.run(work, c, fn)
	}
	c.waiters++
	f.mu.Unlock()

	select {
	case <-c.finished:
		return c.val, c.err
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.waiters--; c.waiters == 0 && f.call == c {
		c.cancel()
		f.call = nil
	}
	return zero, context.Cause(ctx)
}

func (f *Flight[T]) run(ctx context.Context, c *call[T], fn func(context.Context) (T, error)) {
	val, err := protect(ctx, fn)
	c.cancel()
	f.mu.Lock()
	if f.call == c {
		f.call = nil
	}
	// What abandoned work finished all the same is as good as any.
	keep := err == nil && !f.done && f.call == nil
	if keep {
		f.val, f.done = val, true
	}
	discard := err == nil && !keep && f.Discard != nil
	c.val, c.err = val, err
	close(c.finished)
	f.mu.Unlock()
	if discard {
		f.Discard(val)
	}
}

// Value returns the remembered value, if there is one.
func (f *Flight[T]) Value() (val T, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.val, f.done
}

// Forget makes the Flight idle if it remembers a value and stale says so of it. It
// does not disturb work under way. stale must not call the Flight.
func (f *Flight[T]) Forget(stale func(T) bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.done || !stale(f.val) {
		return false
	}
	var zero T
	f.val, f.done = zero, false
	return true
}

// A PanicError is a panic of the work, handed to those who waited for it.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("internal error: %v", e.Value) }

// Unwrap returns the value of the panic if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

func protect[T any](ctx context.Context, fn func(context.Context) (T, error)) (val T, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &PanicError{Value: r, Stack: debug.Stack()}
		}
	}()
	return fn(ctx)
}

// A Group is a set of Flights by key. It remembers nothing: a value is shared by those
// who ask while it is computed. The zero Group is ready to use.
type Group[K comparable, T any] struct {
	mu      sync.Mutex
	flights map[K]*member[T]
}

type member[T any] struct {
	Flight[T]
	users int // under the Group's mu
}

// Do is Flight.Do for the Flight of key.
func (g *Group[K, T]) Do(ctx context.Context, key K, fn func(context.Context) (T, error)) (T, error) {
	g.mu.Lock()
	m, ok := g.flights[key]
	if !ok {
		m = new(member[T])
		if g.flights == nil {
			g.flights = make(map[K]*member[T])
		}
		g.flights[key] = m
	}
	m.users++
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if m.users--; m.users == 0 {
			delete(g.flights, key)
		}
	}()
	return m.Do(ctx, fn)
}
