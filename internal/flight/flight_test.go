package flight

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestRunsOnceAndRemembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Flight[int]
		var runs atomic.Int32
		fn := func(context.Context) (int, error) {
			time.Sleep(time.Minute)
			return int(runs.Add(1)), nil
		}
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if v, err := f.Do(t.Context(), fn); v != 1 || err != nil {
					t.Error(v, err)
				}
			})
		}
		wg.Wait()
		canceled, cancel := context.WithCancel(t.Context())
		cancel()
		if v, err := f.Do(canceled, fn); v != 1 || err != nil {
			t.Error("a remembered value needs no waiting:", v, err)
		}
		if f.Forget(func(v int) bool { return v == 2 }) || !f.Forget(func(v int) bool { return v == 1 }) {
			t.Error("Forget did not ask")
		}
		if _, ok := f.Value(); ok {
			t.Error("not forgotten")
		}
		if v, err := f.Do(t.Context(), fn); v != 2 || err != nil {
			t.Error(v, err)
		}
	})
}

func TestErrorGoesToThoseWhoWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Flight[int]
		boom := errors.New("boom")
		fail := func(context.Context) (int, error) { time.Sleep(time.Second); return 0, boom }
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				if _, err := f.Do(t.Context(), fail); err != boom {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if v, err := f.Do(t.Context(), func(context.Context) (int, error) { return 7, nil }); v != 7 || err != nil {
			t.Error(v, err)
		}
	})
}

type ctxKey struct{}

func TestLastWaiterCancels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var f Flight[int]
		var canceled atomic.Int32
		fn := func(ctx context.Context) (int, error) {
			if ctx.Value(ctxKey{}) != nil {
				t.Error("a caller's value leaked into shared work")
			}
			select {
			case <-time.After(time.Hour):
				return 1, nil
			case <-ctx.Done():
				canceled.Add(1)
				return 0, ctx.Err()
			}
		}
		gone := errors.New("gone home")
		ctx1, cancel1 := context.WithCancelCause(context.WithValue(t.Context(), ctxKey{}, 1))
		ctx2, cancel2 := context.WithCancel(t.Context())
		errs := make(chan error)
		for _, ctx := range []context.Context{ctx1, ctx2} {
			go func() { _, err := f.Do(ctx, fn); errs <- err }()
		}
		synctest.Wait()
		cancel1(gone)
		if err := <-errs; err != gone {
			t.Error(err)
		}
		synctest.Wait()
		if canceled.Load() != 0 {
			t.Error("canceled although somebody waits")
		}
		cancel2()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		synctest.Wait()
		if canceled.Load() != 1 {
			t.Error("not canceled although nobody waits")
		}
		if v, err := f.Do(t.Context(), fn); v != 1 || err != nil {
			t.Error("no fresh start:", v, err)
		}
	})
}

func TestAbandonedValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var discarded []int
		f := Flight[int]{Discard: func(v int) { discarded = append(discarded, v) }}
		stubborn := func(v int) func(context.Context) (int, error) {
			return func(context.Context) (int, error) { time.Sleep(time.Minute); return v, nil }
		}
		impatient := func(v int) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := f.Do(ctx, stubborn(v)); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		}
		impatient(1)
		time.Sleep(time.Hour)
		if v, ok := f.Value(); v != 1 || !ok {
			t.Error("finished work was thrown away:", v, ok)
		}
		f.Forget(func(int) bool { return true })
		impatient(2)
		if v, err := f.Do(t.Context(), stubborn(3)); v != 3 || err != nil {
			t.Error(v, err)
		}
		synctest.Wait()
		if len(discarded) != 1 || discarded[0] != 2 {
			t.Error("discarded", discarded)
		}
	})
}

func TestPanicIsAnError(t *testing.T) {
	var f Flight[int]
	_, err := f.Do(t.Context(), func(context.Context) (int, error) { panic("oops") })
	var p *PanicError
	if !errors.As(err, &p) || err.Error() != "internal error: oops" || !strings.Contains(string(p.Stack), "flight_test") {
		t.Error(err)
	}
}

func TestGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g Group[string, int]
		var runs atomic.Int32
		var wg sync.WaitGroup
		for range 3 {
			for _, k := range []string{"a", "bb"} {
				wg.Go(func() {
					v, err := g.Do(t.Context(), k, func(context.Context) (int, error) {
						time.Sleep(time.Second)
						runs.Add(1)
						return len(k), nil
					})
					if v != len(k) || err != nil {
						t.Error(k, v, err)
					}
				})
			}
		}
		wg.Wait()
		if runs.Load() != 2 || len(g.flights) != 0 {
			t.Error("runs", runs.Load(), "left", len(g.flights))
		}
	})
}
