package worker_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/worker"
	"github.com/dbuild/dbuild/worker/runc"
)

// limited is a process with limits.
func limited(l llb.RunLimits, name string) llb.Output {
	m := llb.Meta{Description: map[string]string{}}
	l.Describe(m.Description)
	return llb.Exec(llb.ExecOptions{Root: files("/bin", ""), Args: []string{name}, Cwd: "/"}, m).Root()
}

func TestRetry(t *testing.T) {
	w := newWorld(t)
	tries := 0
	w.exec.do = func(_ context.Context, p runc.Process) error {
		tries++
		if _, err := os.Stat(filepath.Join(p.Rootfs, "left")); err == nil {
			return errors.New("the try before left something")
		}
		if err := os.WriteFile(filepath.Join(p.Rootfs, "left"), fmt.Append(nil, tries), 0o644); err != nil {
			return err
		}
		if tries < 3 {
			return &runc.ExitError{Code: 100}
		}
		return nil
	}
	stream := progress.NewStream()
	_, got := w.finish(w.try(w.marshal(limited(llb.RunLimits{Retry: 2}, "x")), request{stream: stream}))
	only(t, got, "bin=", "left=3")
	if out, want := output(stream), "attempt 2 of 3 failed, trying again: exit code: 100\n"; !strings.Contains(out, want) {
		t.Errorf("the log is %q, without %q", out, want)
	}
	if n := w.exec.runs(); n != 3 {
		t.Errorf("%d runs", n)
	}
	// The limits are no part of the key.
	w.build(limited(llb.RunLimits{Timeout: time.Hour}, "x"))
	if n := w.exec.runs(); n != 0 {
		t.Errorf("%d runs of what is known", n)
	}
}

func TestRetryEnds(t *testing.T) {
	for _, c := range []struct {
		limits llb.RunLimits
		err    error
		runs   int
		want   string
	}{
		{llb.RunLimits{Retry: 2}, &runc.ExitError{Code: 1}, 3, `process "x" did not complete successfully: exit code: 1 (tried 3 times)`},
		{llb.RunLimits{Retry: 2, RetryOn: []string{"exit:100"}}, &runc.ExitError{Code: 1}, 1, `process "x" did not complete successfully: exit code: 1`},
		{llb.RunLimits{Retry: 2}, errors.New("no rootfs"), 1, `process "x" did not complete successfully: no rootfs`},
		{llb.RunLimits{Timeout: time.Minute}, runc.ErrTimeout, 1, `process "x" did not complete successfully: stopped after 1m0s, its time limit; the last it printed was "nearly"`},
		{llb.RunLimits{Timeout: time.Minute, Retry: 1, RetryOn: []string{"timeout"}}, runc.ErrTimeout, 2, `its time limit; the last it printed was "nearly" (tried 2 times)`},
	} {
		w := newWorld(t)
		w.exec.do = func(_ context.Context, p runc.Process) error {
			if p.Timeout != c.limits.Timeout {
				return fmt.Errorf("the timeout is %v", p.Timeout)
			}
			_, _ = fmt.Fprintf(p.Stdout, "%s\nhalf\rnearly\n\n", strings.Repeat("long", 1000))
			return c.err
		}
		err := w.fails(limited(c.limits, "x"), request{})
		if !strings.HasSuffix(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
		var failed *worker.ExecError
		if !errors.As(err, &failed) {
			t.Errorf("%v does not say what failed", err)
		}
		if n := w.exec.runs(); n != c.runs {
			t.Errorf("%v: %d runs", c.limits, n)
		}
	}
}

func TestBadLimits(t *testing.T) {
	w := newWorld(t)
	o := llb.Exec(llb.ExecOptions{Root: files("/bin", ""), Args: []string{"x"}, Cwd: "/"},
		llb.Meta{Description: map[string]string{"dbuild.timeout": "soon"}}).Root()
	if err := w.fails(o, request{}); !strings.Contains(err.Error(), `limits of a process: timeout: invalid duration "soon"`) {
		t.Errorf("got %v", err)
	}
}
