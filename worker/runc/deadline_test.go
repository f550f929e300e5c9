package runc_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/worker/runc"
)

// At its timeout a step is asked to end, and killed if it does not.
func TestTimeout(t *testing.T) {
	runtimes(t, func(t *testing.T, e *runc.Executor) {
		for _, c := range []struct {
			name, script, want string
			err                error
		}{
			{"ends when asked", "trap 'echo bye; exit 0' TERM; echo hi; while :; do sleep 0.05; done", "hi\nbye\n", runc.ErrTimeout},
			{"does not end", "trap '' TERM; echo hi; sleep 1000 & sleep 1000", "hi\n", runc.ErrTimeout},
		} {
			t.Run(c.name, func(t *testing.T) {
				var out strings.Builder
				start := time.Now()
				err := e.Run(t.Context(), runc.Process{
					ID: newID(), Rootfs: newRootfs(t), Stdout: &out, Timeout: time.Second, Grace: time.Second,
					Args: []string{"/bin/sh", "-c", c.script},
				})
				if !errors.Is(err, c.err) || out.String() != c.want {
					t.Errorf("%v, it printed %q", err, out.String())
				}
				if took := time.Since(start); took < time.Second || took > 15*time.Second {
					t.Errorf("took %v", took)
				}
			})
		}
	})
}

func TestTimeoutIsNotReached(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	rootfs := newRootfs(t)
	p := runc.Process{Rootfs: rootfs, Timeout: time.Hour, Grace: time.Hour}
	if out, err := sh(t, e, p, "echo done"); err != nil || out != "done" {
		t.Errorf("%q, %v", out, err)
	}
	var exit *runc.ExitError
	if _, err := sh(t, e, p, "exit 7"); !errors.As(err, &exit) || exit.Code != 7 {
		t.Errorf("got %v", err)
	}
	cause := errors.New("nobody wants it")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	p.ID, p.Args = newID(), []string{"/bin/true"}
	if err := e.Run(ctx, p); !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}
