package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// An invocation is a call of a runtime's command that lasts as long as a process.
type invocation struct {
	r     *command
	dir   string // for the runtime's log, and the number of the process
	id    string // of the container
	verb  []string
	args  []string
	std   *stdio
	watch *Running // nil if nobody does

	// kill kills the process, and p, which is the runtime, if that takes too long. It
	// returns when done is closed, or p was killed.
	kill func(p *os.Process, done <-chan struct{})
}

// run returns the status of the process, or why there is none.
func (v *invocation) run(ctx context.Context) (code int, err error) {
	log, pidFile := filepath.Join(v.dir, "log.json"), filepath.Join(v.dir, "pid")
	args := append([]string{"--log", log, "--log-format", "json"}, v.verb...)
	if v.watch != nil {
		args = append(args, "--pid-file", pidFile)
	}
	cmd := v.r.command(context.WithoutCancel(ctx), v.r.args(append(args, v.args...)...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = v.std.in, v.std.out, v.std.err
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("runtime: %w", err)
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	if v.watch != nil {
		if t := v.std.terminal; t != nil {
			t.resized = func() { _ = cmd.Process.Signal(syscall.SIGWINCH) } // it copies the size
		}
		wg.Go(func() { v.await(pidFile, done) })
	}
	wg.Go(func() {
		select {
		case <-done:
		case <-ctx.Done():
			v.kill(cmd.Process, done)
		}
	})
	err = cmd.Wait()
	close(done)
	wg.Wait()
	if err == nil {
		return 0, nil
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0, err
	}
	if msg := lastError(log); msg != "" {
		return 0, startError(msg)
	}
	if code = exit.ExitCode(); code < 0 {
		return 0, fmt.Errorf("runtime: %w", err)
	}
	return code, nil
}

// await waits until the process runs, which the runtime tells by writing its number to a
// file, and passes signals on to it.
func (v *invocation) await(pidFile string, done <-chan struct{}) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		text, err := os.ReadFile(pidFile)
		pid, perr := strconv.Atoi(strings.TrimSpace(string(text)))
		if err == nil && perr == nil {
			// It is the runtime's child. One that has ended is not found, or is nobody's yet:
			// the runtime buries it just before it ends itself.
			process, err := os.FindProcess(pid)
			if err != nil {
				return
			}
			v.watch.started(func(sig syscall.Signal) error { return process.Signal(sig) })
			return
		}
		select {
		case <-done:
			return
		case <-tick.C:
		}
	}
}
