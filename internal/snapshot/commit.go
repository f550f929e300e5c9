package snapshot

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

const (
	gatherMin = 20 * time.Millisecond  // how long a group is gathered
	gatherMax = 500 * time.Millisecond // if the disk is slow
	// idleCommit is how long uses may go unrecorded when nothing else is written.
	idleCommit = 30 * time.Second
	// commitTries is how often a change is tried before it is given up. The layer it is
	// about stays usable until the store is closed.
	commitTries = 3
)

// A change is one entry of a group commit.
type change struct {
	sync    bool // files must reach the disk first
	prepare func()
	apply   func(*bolt.Tx) error
	done    func(error)
	tries   int
}

// A committer writes groups of changes: one syncfs, then one transaction.
type committer struct {
	s *Store

	mu     sync.Mutex
	queue  []*change
	urgent bool
	closed bool
	lost   []error // of changes given up since the last Flush

	kick chan struct{}
	last time.Duration // of the last group; used by loop only
}

func newCommitter(s *Store) *committer {
	return &committer{s: s, kick: make(chan struct{}, 1)}
}

func (c *committer) add(ch *change, urgent bool) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		if ch.done != nil {
			ch.done(errClosed)
		}
		return
	}
	c.queue = append(c.queue, ch)
	c.urgent = c.urgent || urgent
	c.mu.Unlock()
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

func (c *committer) loop() {
	idle := time.NewTicker(idleCommit)
	defer idle.Stop()
	for {
		select {
		case <-c.kick:
		case <-idle.C:
			if !c.s.hasUses() {
				continue
			}
		case <-c.s.life.Done():
			c.mu.Lock()
			c.closed = true
			c.mu.Unlock()
			c.run()
			return
		}
		c.gather()
		c.run()
	}
}

// gather waits for company, longer if the disk is slow, unless somebody waits for us.
func (c *committer) gather() {
	wait := min(max(gatherMin, 5*c.last), gatherMax)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		c.mu.Lock()
		urgent := c.urgent
		c.mu.Unlock()
		if urgent {
			return
		}
		select {
		case <-timer.C:
			return
		case <-c.kick:
		case <-c.s.life.Done():
			return
		}
	}
}

func (c *committer) run() {
	c.mu.Lock()
	group := c.queue
	c.queue, c.urgent = nil, false
	c.mu.Unlock()
	uses := c.s.takeUses()
	if len(group) == 0 && len(uses) == 0 {
		return
	}
	start := time.Now()
	err := c.write(group, uses)
	c.last = time.Since(start)
	if err == nil {
		for _, ch := range group {
			if ch.done != nil {
				ch.done(nil)
			}
		}
		return
	}
	c.retry(group, err)
}

func (c *committer) write(group []*change, uses map[string]usage) error {
	sync := false
	for _, ch := range group {
		if ch.prepare != nil {
			ch.prepare()
			ch.prepare = nil
		}
		sync = sync || ch.sync
	}
	if sync {
		// A file is on disk before a row says that it exists.
		if err := unix.Syncfs(int(c.s.sync.Fd())); err != nil {
			return fmt.Errorf("sync state directory: %w", err)
		}
	}
	return c.s.mdb.Update(func(tx *bolt.Tx) error {
		for _, ch := range group {
			if ch.apply == nil {
				continue
			}
			if err := ch.apply(tx); err != nil {
				return err
			}
		}
		return c.s.writeUses(tx, uses)
	})
}

// retry finds out which change made its group fail: each gets a transaction of its own.
func (c *committer) retry(group []*change, err error) {
	if errors.Is(err, unix.ENOSPC) {
		c.s.useReserve() // a layer without a row could not even be pruned
		defer c.s.keepReserve()
	}
	var again []*change
	for _, ch := range group {
		one := err
		if len(group) > 1 {
			one = c.write([]*change{ch}, nil)
		}
		ch.tries++
		switch {
		case ch.apply == nil && len(again) > 0:
			again = append(again, ch) // a Flush waits for what came before it
			continue
		case one != nil && ch.apply != nil && ch.tries < commitTries && !c.s.closing.Load():
			again = append(again, ch)
			continue
		case one != nil && ch.apply != nil:
			c.mu.Lock()
			if len(c.lost) < 16 {
				c.lost = append(c.lost, one)
			}
			c.mu.Unlock()
		}
		if ch.done != nil {
			ch.done(one)
		}
	}
	if len(again) > 0 {
		c.mu.Lock()
		// Before anything that came since: a later change may depend on an earlier one.
		c.queue = append(again, c.queue...)
		c.urgent = true
		c.mu.Unlock()
		select {
		case c.kick <- struct{}{}:
		default:
		}
	}
}

// settle waits until what was added has been written, or has failed to be.
func (c *committer) settle(ctx context.Context) error {
	done := make(chan struct{})
	c.add(&change{done: func(error) { close(done) }}, true)
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *committer) flush(ctx context.Context) error {
	done := make(chan error, 1)
	c.add(&change{done: func(err error) { done <- err }}, true)
	select {
	case err := <-done:
		return errors.Join(c.takeLost(), err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *committer) takeLost() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := errors.Join(c.lost...)
	c.lost = nil
	return err
}

// Later adds fn to the next group commit, which happens after the files of every layer
// committed before this call are on disk. fn may run again if a transaction fails.
func (s *Store) Later(fn func(*bolt.Tx) error) {
	s.commit.add(&change{apply: fn}, false)
}

// Flush waits until everything handed to Later, and every layer, is durable. Its error
// tells of all changes that could not be written since the last Flush.
func (s *Store) Flush(ctx context.Context) error {
	return s.commit.flush(ctx)
}

// do applies fn durably before it returns.
func (s *Store) do(ctx context.Context, sync bool, fn func(*bolt.Tx) error) error {
	done := make(chan error, 1)
	s.commit.add(&change{sync: sync, apply: fn, done: func(err error) { done <- err }}, true)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}
