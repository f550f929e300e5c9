package runc

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// ErrTimeout is the error of a process that was stopped at its Timeout.
var ErrTimeout = errors.New("the process ran out of time")

// deadline stops the processes in a cgroup at p's Timeout. The context it returns ends when
// they have to be killed. stop ends the watch and reports whether the time had run out.
func (e *Executor) deadline(parent context.Context, p *Process, cgroup string) (_ context.Context, stop func() (late bool)) {
	ctx, cancel := context.WithCancelCause(parent)
	done := make(chan struct{})
	late := false
	var watch sync.WaitGroup
	watch.Go(func() {
		timer := time.NewTimer(p.Timeout)
		defer timer.Stop()
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		late = true
		e.cgroups.signalStep(cgroup, unix.SIGTERM)
		timer.Reset(p.Grace)
		select {
		case <-done:
		case <-timer.C:
			cancel(ErrTimeout)
		}
	})
	return ctx, func() bool {
		close(done)
		watch.Wait()
		cancel(nil)
		return late && parent.Err() == nil
	}
}
