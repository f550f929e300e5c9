package usage

import (
	"slices"
	"sync"
	"time"
)

// maxSamples bounds a recording. It is even, so that the last sample is one of those kept.
const maxSamples = 20

// firstInterval is the time between samples, at first.
const firstInterval = 2 * time.Second

// A Recorder takes samples until it is stopped: in a long time fewer of them, so that there are
// never more than maxSamples.
type Recorder[T any] struct {
	read func() T
	stop chan struct{}
	done sync.WaitGroup

	mu   sync.Mutex
	list []T // under mu
}

// Record begins to record what read says.
func Record[T any](read func() T) *Recorder[T] {
	r := &Recorder[T]{read: read, stop: make(chan struct{})}
	r.done.Go(r.run)
	return r
}

func (r *Recorder[T]) run() {
	interval := firstInterval
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-r.stop:
			return
		case <-tick.C:
		}
		if r.add(r.read()) {
			interval *= 2
			tick.Reset(interval)
		}
	}
}

// add adds a sample. If there are too many then, every other is dropped.
func (r *Recorder[T]) add(s T) (dropped bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, s)
	if len(r.list) < maxSamples {
		return false
	}
	for i := range len(r.list) / 2 {
		r.list[i] = r.list[2*i+1]
	}
	r.list = r.list[:len(r.list)/2]
	return true
}

// Samples returns those so far and one of now.
func (r *Recorder[T]) Samples() []T {
	now := r.read()
	r.mu.Lock()
	defer r.mu.Unlock()
	return append(slices.Clone(r.list), now)
}

// Stop ends the recording.
func (r *Recorder[T]) Stop() {
	close(r.stop)
	r.done.Wait()
}
