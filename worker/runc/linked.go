package runc

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/dbuild/dbuild/worker/runc/launcher"
)

// The launcher's program, if it was built before this package.
//
//go:embed all:initbin
var initProgram embed.FS

const initProgramName = "initbin/dbuild-init"

// killTimeout is how long the launcher may take to kill a container before it is done from
// here.
const killTimeout = 3 * time.Second

var errNoSeccomp = errors.New("built without seccomp support (build tag seccomp): steps would run without its protection")

// linked is the runtime that is part of this program.
type linked struct {
	e     *Executor
	state string // directory for a launcher that cannot keep its state in memory

	mu     sync.Mutex
	client *launcher.Client // under mu; nil until first needed, replaced when it died
	closed bool             // under mu
}

func newLinked(e *Executor) (*linked, error) {
	if _, err := fs.Stat(initProgram, initProgramName); err != nil && launcher.SeccompVersion() == "" && !e.config.AllowNoSeccomp {
		return nil, errNoSeccomp
	}
	return &linked{e: e, state: filepath.Join(e.config.Root, "containers")}, nil
}

// program returns the launcher's program in a sealed file, nil if it is not built in.
func program() (*os.File, error) {
	content, err := initProgram.ReadFile(initProgramName)
	if err != nil {
		return nil, nil
	}
	return launcher.Seal(content)
}

// get returns a running launcher.
func (l *linked) get() (*launcher.Client, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, ErrClosed
	}
	if l.client != nil {
		select {
		case <-l.client.Dead():
			l.client.Close()
			l.client = nil
		default:
			return l.client, nil
		}
	}
	file, err := program()
	if err != nil {
		return nil, err
	}
	if file != nil {
		defer file.Close()
	}
	client, err := launcher.Start(file)
	if err != nil {
		return nil, err
	}
	if client.Hello.Seccomp == "" && !l.e.config.AllowNoSeccomp {
		client.Close()
		return nil, errNoSeccomp
	}
	l.client = client
	return client, nil
}

func (l *linked) run(ctx context.Context, c *container) error {
	client, err := l.get()
	if err != nil {
		return err
	}
	stopWatch := l.watch(ctx, c)
	defer stopWatch()
	req := &launcher.Request{
		ID: c.id, StateDir: l.state, Spec: c.spec, Seccomp: c.seccomp, Rootless: l.e.rootless, Watch: c.watch != nil,
	}
	if client.Hello.Seccomp == "" {
		req.Seccomp = ""
	}
	if req.Watch {
		// Its further processes get what libcontainer gives them.
		if c.spec.Linux.Seccomp, err = launcher.Profile(req.Seccomp, c.spec); err != nil {
			return err
		}
		req.Seccomp = ""
	}
	res, err := client.Run(ctx, req, c.std.files(), c.watch.started)
	if errors.Is(err, launcher.ErrDied) {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
		defer cancel()
		return errors.Join(err, l.e.cgroups.killStep(cleanup, c.spec.Linux.CgroupsPath),
			os.RemoveAll(filepath.Join(l.state, c.id)))
	}
	if err != nil {
		return err
	}
	if res.Err != "" {
		return startError(res.Err)
	}
	if res.Leftover != "" {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
		defer cancel()
		if err = l.e.cgroups.killStep(cleanup, c.spec.Linux.CgroupsPath); err != nil {
			err = fmt.Errorf("%s: %w", res.Leftover, err)
		}
	}
	if res.Code != 0 {
		return errors.Join(&ExitError{Code: res.Code, OOMKilled: res.OOMKilled}, err)
	}
	return err
}

func (l *linked) exec(ctx context.Context, c *container, x *execution) error {
	client, err := l.get()
	if err != nil {
		return err
	}
	req := &launcher.Request{ID: c.id, Exec: x.process, Watch: true}
	res, err := client.Run(ctx, req, x.std.files(), x.watch.started)
	switch {
	case err != nil:
		return err
	case res.Err != "":
		return startError(res.Err)
	case res.Code != 0:
		return &ExitError{Code: res.Code}
	}
	return nil
}

func (l *linked) openStdio(p *Process) (*stdio, error) {
	if p.Terminal {
		return openConsoleSocket(p.Stdin, p.Stdout)
	}
	return openStdio(p.Stdin, p.Stdout, p.Stderr)
}

// watch kills the container from outside if the launcher does not in time. The returned
// function ends it.
func (l *linked) watch(ctx context.Context, c *container) func() {
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		select {
		case <-done:
		case <-time.After(killTimeout):
			cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
			defer cancel()
			_ = l.e.cgroups.killStep(cleanup, c.spec.Linux.CgroupsPath) // Run tells how it ended
		}
	})
	return func() {
		close(done)
		wg.Wait()
	}
}

func (l *linked) name() string {
	content, err := initProgram.ReadFile(initProgramName)
	if err != nil {
		content = nil // containers are made from this program
	}
	return "libcontainer " + launcher.RuncVersion(content)
}

func (l *linked) warm() {
	_, _ = l.get() // the first run reports what is wrong
}

// sweep has nothing to do: a container's state is in files, if anywhere, which go with the
// executor's.
func (l *linked) sweep(context.Context) error { return nil }

func (l *linked) close() {
	l.mu.Lock()
	client := l.client
	l.client, l.closed = nil, true
	l.mu.Unlock()
	if client != nil {
		client.Close()
	}
}
