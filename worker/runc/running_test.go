package runc_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/dbuild/dbuild/worker/runc"
)

// idle starts a container whose first process does nothing until it gets SIGTERM.
func idle(t testing.TB, e *runc.Executor) (id string, p *runc.Running) {
	t.Helper()
	id = newID()
	out := newWatcher()
	p, err := e.Start(context.Background(), runc.Process{
		ID: id, Rootfs: newRootfs(t), Stdout: out, Args: []string{"/bin/sh", "-c", `trap "exit 9" TERM; echo up; while :; do sleep 0.01; done`},
	})
	must(t, err)
	if line := out.line(t); line != "up" {
		t.Fatalf("got %q", line)
	}
	return id, p
}

func ended(p *runc.Running) <-chan error {
	c := make(chan error, 1)
	go func() { c <- p.Wait() }()
	return c
}

func exitCode(t testing.TB, err error) int {
	t.Helper()
	var exit *runc.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("got %v, want an exit code", err)
	}
	return exit.Code
}

func TestExec(t *testing.T) {
	runtimes(t, func(t *testing.T, e *runc.Executor) {
		id, first := idle(t, e)
		exec := func(p runc.Process, script string) (string, string, error) {
			var out, err bytes.Buffer
			p.ID, p.Args, p.Stdout, p.Stderr = newID(), []string{"/bin/sh", "-c", script}, &out, &err
			r, serr := e.Exec(context.Background(), id, p)
			must(t, serr)
			werr := wait(t, ended(r))
			return out.String(), err.String(), werr
		}
		t.Run("separate outputs", func(t *testing.T) {
			if out, serr, err := exec(runc.Process{}, "echo out; echo err >&2"); out != "out\n" || serr != "err\n" || err != nil {
				t.Errorf("got %q %q %v", out, serr, err)
			}
		})
		t.Run("same container", func(t *testing.T) {
			if _, _, err := exec(runc.Process{}, "echo hello > /tmp/file"); err != nil {
				t.Fatal(err)
			}
			if out, _, err := exec(runc.Process{}, "cat /tmp/file; cat /proc/1/cmdline"); !strings.HasPrefix(out, "hello\n/bin/sh\x00-c\x00trap") || err != nil {
				t.Errorf("got %q %v", out, err)
			}
		})
		t.Run("standard input", func(t *testing.T) {
			in, w := io.Pipe()
			go func() {
				io.WriteString(w, "one\n")
				io.WriteString(w, "two\n")
				w.Close()
			}()
			if out, _, err := exec(runc.Process{Stdin: in}, "cat; echo end"); out != "one\ntwo\nend\n" || err != nil {
				t.Errorf("got %q %v", out, err)
			}
		})
		t.Run("who and where", func(t *testing.T) {
			out, _, err := exec(runc.Process{User: "app", Cwd: "/tmp", Env: []string{"A=b"}}, "id -u; id -G; pwd; echo $A $HOME")
			if out != "1000\n1001 2002\n/tmp\nb /home/app\n" || err != nil {
				t.Errorf("got %q %v", out, err)
			}
		})
		t.Run("same protection", func(t *testing.T) {
			const script = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status"
			want, err := sh(t, e, runc.Process{Rootfs: newRootfs(t)}, script)
			must(t, err)
			if out, _, err := exec(runc.Process{}, script); strings.TrimSpace(out) != want || !strings.Contains(out, "Seccomp:\t2") || err != nil {
				t.Errorf("got %q %v, want %q", out, err, want)
			}
		})
		t.Run("exit code", func(t *testing.T) {
			if _, _, err := exec(runc.Process{}, "exit 3"); exitCode(t, err) != 3 {
				t.Errorf("got %v", err)
			}
		})
		t.Run("no such command", func(t *testing.T) {
			r, err := e.Exec(context.Background(), id, runc.Process{ID: newID(), Args: []string{"/nonexistent"}})
			must(t, err)
			if err := wait(t, ended(r)); exitCode(t, err) != 127 {
				t.Errorf("got %v", err)
			}
			if err := r.Signal(syscall.SIGTERM); !errors.Is(err, runc.ErrNotRunning) {
				t.Errorf("signal: %v", err)
			}
		})
		t.Run("cancel", func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(context.Background())
			r, err := e.Exec(ctx, id, runc.Process{ID: newID(), Args: []string{"/bin/sleep", "1000"}})
			must(t, err)
			cause := errors.New("enough")
			cancel(cause)
			if err := wait(t, ended(r)); !errors.Is(err, cause) {
				t.Errorf("got %v", err)
			}
		})
		// The end of the first process is the end of all.
		out := newWatcher()
		other, err := e.Exec(context.Background(), id, runc.Process{ID: newID(), Stdout: out, Args: []string{"/bin/sh", "-c", "echo up; sleep 1000"}})
		must(t, err)
		out.line(t)
		must(t, first.Signal(syscall.SIGTERM))
		if err := wait(t, ended(first)); exitCode(t, err) != 9 {
			t.Errorf("first process: %v", err)
		}
		if err := wait(t, ended(other)); exitCode(t, err) != 137 {
			t.Errorf("other process: %v", err)
		}
		r, err := e.Exec(context.Background(), id, runc.Process{ID: newID(), Args: []string{"/bin/true"}})
		must(t, err)
		if err := wait(t, ended(r)); !errors.Is(err, runc.ErrNotRunning) {
			t.Errorf("in a container that ended: %v", err)
		}
	})
}

func TestTerminal(t *testing.T) {
	runtimes(t, func(t *testing.T, e *runc.Executor) {
		id, first := idle(t, e)
		for _, test := range []struct {
			name  string
			start func(runc.Process) (*runc.Running, error)
		}{
			{"first", func(p runc.Process) (*runc.Running, error) {
				p.Rootfs = newRootfs(t)
				return e.Start(context.Background(), p)
			}},
			{"further", func(p runc.Process) (*runc.Running, error) { return e.Exec(context.Background(), id, p) }},
		} {
			t.Run(test.name, func(t *testing.T) {
				in, w := io.Pipe()
				resize := "until test \"$(stty size 2>/dev/null)\" = '33 77'; do :; done; stty size"
				if strings.HasPrefix(e.Runtime(), "crun") {
					resize = "echo 33 77" // crun 1.8 does not always notice
				}
				out := newWatcher()
				// crun has lines end as a terminal wants them.
				line := func() string { return strings.TrimSuffix(out.line(t), "\r") }
				r, err := test.start(runc.Process{
					ID: newID(), Terminal: true, Stdin: in, Stdout: out,
					Args: []string{"/bin/sh", "-c", `test -t 0 -a -t 1 -a -t 2 && echo terminal; echo ready; read x; echo "got $x"; ` + resize + `; read x; exit 4`},
				})
				must(t, err)
				for _, want := range []string{"terminal", "ready"} {
					if line := line(); line != want {
						t.Fatalf("got %q, want %q", line, want)
					}
				}
				must(t, r.Resize(33, 77))
				io.WriteString(w, "x\n")
				for _, want := range []string{"x", "got x", "33 77"} { // the terminal echoes
					if line := line(); line != want {
						t.Fatalf("got %q, want %q", line, want)
					}
				}
				io.WriteString(w, "\x04")
				if err := wait(t, ended(r)); exitCode(t, err) != 4 {
					t.Errorf("got %v", err)
				}
				w.Close()
			})
		}
		must(t, first.Signal(syscall.SIGTERM))
		wait(t, ended(first))
	})
}
