package daemon

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/semaphore"
)

// admission bounds how many builds work at the same time. What waits costs a connection
// and little else, so that a thousand builds that arrive at once all get their turn
// instead of taking each other's memory.
type admission struct {
	slots   *semaphore.Weighted
	limit   int
	waiting atomic.Int64
}

// newAdmission admits max builds at once; 0 chooses by the number of processors.
func newAdmission(max int) *admission {
	if max <= 0 {
		max = min(32, 8*runtime.GOMAXPROCS(0))
	}
	return &admission{slots: semaphore.NewWeighted(int64(max)), limit: max}
}

// admit waits until b may work. It is called when the build first asks for something, and
// not when it arrives: a client that only wants to know what the daemon can do is
// answered at once, and one with a frontend of its own finds its build. The build shows
// that it waits.
func (b *build) admit(ctx context.Context) error {
	b.admitMu.Lock()
	defer b.admitMu.Unlock()
	if b.admitted || b.over {
		return nil
	}
	a := b.d.admission
	if !a.slots.TryAcquire(1) {
		n := a.waiting.Add(1)
		defer a.waiting.Add(-1)
		_, done := b.step("admission", fmt.Sprintf("waiting for other builds: %d are running, %d wait", a.limit, n))
		// Whoever waits does so no longer than its build is there.
		ctx, stop := context.WithCancelCause(ctx)
		unhook := context.AfterFunc(b.life, func() { stop(context.Cause(b.life)) })
		err := a.slots.Acquire(ctx, 1)
		unhook()
		stop(nil)
		done(err)
		if err != nil {
			return err
		}
	}
	b.admitted = true
	return nil
}

// leave gives the place of b to another build.
func (b *build) leave() {
	b.admitMu.Lock()
	defer b.admitMu.Unlock()
	b.over = true
	if b.admitted {
		b.d.admission.slots.Release(1)
		b.admitted = false
	}
}
