package runc

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/dbuild/dbuild/worker/runc/rootfs"
	"github.com/dbuild/dbuild/worker/runc/spec"
)

// ErrNotRunning is returned for a process that has ended, or a container that has.
var ErrNotRunning = errors.New("the process is not running")

// A Running is a process that can be talked to while it runs.
type Running struct {
	ready chan struct{} // closed when the command runs, or has ended
	done  chan struct{} // closed when it has ended
	err   error         // how; after done

	mu   sync.Mutex
	send func(syscall.Signal) error // under mu; nil before ready and after done
	std  *stdio                     // under mu; nil until it is open
}

func newRunning() *Running {
	return &Running{ready: make(chan struct{}), done: make(chan struct{})}
}

// started is called by the runtime when the command runs.
func (r *Running) started(send func(syscall.Signal) error) {
	if r == nil {
		return // nobody asked
	}
	r.mu.Lock()
	r.send = send
	r.mu.Unlock()
	close(r.ready)
}

func (r *Running) end(err error) {
	r.mu.Lock()
	if r.send == nil {
		close(r.ready)
	}
	r.send, r.err = nil, err
	r.mu.Unlock()
	close(r.done)
}

func (r *Running) open(std *stdio) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.std = std
}

// Wait waits for the end of the process, and returns what Run would.
func (r *Running) Wait() error {
	<-r.done
	return r.err
}

// Signal sends a signal to the process, once it runs.
func (r *Running) Signal(sig syscall.Signal) error {
	<-r.ready
	r.mu.Lock()
	send := r.send
	r.mu.Unlock()
	if send == nil {
		return ErrNotRunning
	}
	return send(sig)
}

// kill kills the process if it runs.
func (r *Running) kill() {
	r.mu.Lock()
	send := r.send
	r.mu.Unlock()
	if send != nil {
		_ = send(syscall.SIGKILL)
	}
}

// Resize tells the terminal of the process its size. The process of a container without a
// terminal does not notice.
func (r *Running) Resize(rows, columns uint16) error {
	<-r.ready
	r.mu.Lock()
	std, send := r.std, r.send
	r.mu.Unlock()
	if std == nil || send == nil {
		return ErrNotRunning
	}
	return std.resize(&unix.Winsize{Row: rows, Col: columns})
}

// Start runs a process as Run does, in the background, and returns when it has been
// started, or could not be: then Wait has the error. When ctx is done it is killed. More
// processes can be added to its container, which ends with it.
func (e *Executor) Start(ctx context.Context, p Process) (*Running, error) {
	r, err := e.background(ctx, func(ctx context.Context, r *Running) error { return e.run(ctx, &p, r) })
	if err == nil {
		<-r.ready
	}
	return r, err
}

// Exec runs one more process in the container of a process that was started with the given
// ID. Of p count, besides its own ID, what is run, as whom and where, and its files. It does
// not wait until the process runs, and only the process itself is killed when ctx is done.
func (e *Executor) Exec(ctx context.Context, id string, p Process) (*Running, error) {
	if !idPattern.MatchString(p.ID) {
		return nil, errBadID(p.ID)
	}
	if len(p.Args) == 0 {
		return nil, errNoCommand
	}
	return e.background(ctx, func(ctx context.Context, r *Running) error { return e.exec(ctx, id, &p, r) })
}

func (e *Executor) background(ctx context.Context, do func(context.Context, *Running) error) (*Running, error) {
	r := newRunning()
	ctx, done, err := e.enter(ctx)
	if err != nil {
		return nil, err
	}
	go func() {
		defer done()
		err := do(ctx, r)
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		r.end(err)
	}()
	return r, nil
}

func (e *Executor) exec(ctx context.Context, id string, p *Process, r *Running) error {
	e.mu.Lock()
	c := e.watched[id]
	e.mu.Unlock()
	if c == nil {
		return ErrNotRunning
	}
	user, err := rootfs.LookupUser(c.spec.Root.Path, p.User)
	if err != nil {
		return err
	}
	env := p.Env
	if c.proxied {
		env = proxiedEnv(env)
	}
	process := *c.spec.Process
	process.Args, process.Env = p.Args, spec.Environment(env, user.Home)
	process.Cwd = path.Join("/", p.Cwd)
	process.User = specs.User{UID: user.UID, GID: user.GID, AdditionalGids: user.Groups}
	process.Terminal = p.Terminal
	x := &execution{id: p.ID, process: &process, watch: r}
	if x.std, err = e.runtime.openStdio(p); err != nil {
		return err
	}
	r.open(x.std)
	err = e.runtime.exec(ctx, c, x)
	return errors.Join(err, x.std.finish())
}

// watch makes a container known to Exec.
func (e *Executor) watch(c *container) (forget func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watched[c.id] = c
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watched, c.id)
	}
}

func errBadID(id string) error {
	return fmt.Errorf("container id %.80q: want 1 to 64 letters, digits, - or _", id)
}
