package worker

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker/runc"
	"github.com/moby/buildkit/solver/pb"
)

// ContainerOptions say on whose behalf a container is made, and of what.
type ContainerOptions struct {
	// Refs are what the mounts of the request show, by index; nil is an empty filesystem.
	Refs   []solver.Ref
	Access snapshot.Access
	// Permit says what may be asked for.
	Permit LoadOptions
	// Proxy is what its processes have of the network, if not nil.
	Proxy *runc.Proxy
}

// A Container is a container that is outside of every graph. It must be released.
type Container struct {
	w      *Worker
	opt    ContainerOptions
	m      *mounting
	base   runc.Process // what all its processes have in common
	life   context.Context
	kill   context.CancelCauseFunc
	mounts int
	// windows says that a client thinks so of the container.
	windows bool

	mu       sync.Mutex
	started  bool           // under mu; the main process was
	released bool           // under mu; nothing is begun after it is set
	users    sync.WaitGroup // processes and readers
	freed    chan struct{}  // closed when all is gone
	err      error          // of that, or of a process it killed; after freed
}

// windowsPath is the PATH of Windows.
const windowsPath = `c:\Windows\System32;c:\Windows;C:\Windows\System32\WindowsPowerShell\v1.0`

// errKilled is the cause of the end of processes that run when their container is released.
var errKilled = fmt.Errorf("the container was released: %w", context.Canceled)

var errReleased = cerrdefs.ErrFailedPrecondition.WithMessage("the container was released")

// NewContainer prepares the mounts of a container.
func (w *Worker) NewContainer(ctx context.Context, r frontend.ContainerRequest, opt ContainerOptions) (*Container, error) {
	c := &Container{w: w, opt: opt, mounts: len(r.Mounts), freed: make(chan struct{})}
	c.windows = r.Platform != nil && r.Platform.OS == "windows"
	// Nobody waits for a container: its life is its owner's, not the caller's.
	c.life, c.kill = context.WithCancelCause(context.WithoutCancel(ctx))
	c.m = &mounting{w: w, access: opt.Access, id: newID(), name: "container"}
	// What serves a mount, such as an ssh agent, does so for the container's life.
	stop := context.AfterFunc(ctx, func() { c.kill(context.Cause(ctx)) })
	err := c.prepare(c.life, r)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		c.kill(err)
		return nil, errors.Join(err, c.m.close())
	}
	return c, nil
}

func (c *Container) prepare(ctx context.Context, r frontend.ContainerRequest) error {
	mounts, err := containerMounts(r.Mounts)
	if err != nil {
		return badRequest(err)
	}
	op := &pb.ExecOp{
		Meta:   &pb.Meta{Args: []string{"container"}, ExtraHosts: r.ExtraHosts, Hostname: r.Hostname},
		Mounts: mounts, Network: r.Network,
	}
	if _, err := llb.CheckExecOp(op, len(mounts)); err != nil {
		return badRequest(err)
	}
	c.base = runc.Process{ID: c.m.id, Hostname: r.Hostname, Network: r.Network, Proxy: c.opt.Proxy}
	if err := addHosts(&c.base, r.ExtraHosts); err != nil {
		return badRequest(err)
	}
	refs := append([]solver.Ref{}, c.opt.Refs...)
	for len(refs) < len(mounts) {
		refs = append(refs, nil)
	}
	for i, mt := range r.Mounts {
		if mt.Files == nil {
			continue
		}
		ref, err := c.filesRef(ctx, mt.Files)
		if err != nil {
			return err
		}
		defer ref.Release()
		refs[i] = ref
	}
	return c.m.mount(ctx, mounts, refs, &c.base)
}

// containerMounts returns the mounts as an operation would have them: what is written to
// them is no output.
func containerMounts(list []frontend.ContainerMount) ([]*pb.Mount, error) {
	var out []*pb.Mount
	for i, mt := range list {
		if mt.Mount == nil {
			return nil, fmt.Errorf("mount %d is empty", i)
		}
		m := mt.Mount.CloneVT()
		m.Input, m.Output, m.ResultID = int64(i), int64(pb.SkipOutput), ""
		if mt.Files != nil {
			m.Readonly = true
		}
		out = append(out, m)
	}
	return out, nil
}

// filesRef makes a layer of some files.
func (c *Container) filesRef(ctx context.Context, files map[string][]byte) (solver.Ref, error) {
	draft, err := c.w.Store.NewDraft(ctx, nil, snapshot.Desc{Description: "files for a container"})
	if err != nil {
		return nil, err
	}
	for name, content := range files {
		if !filepath.IsLocal(name) || strings.Contains(name, "/") {
			draft.Discard()
			return nil, fmt.Errorf("file %q: not a name", name)
		}
		if err := os.WriteFile(filepath.Join(draft.Upper(), name), content, 0o444); err != nil {
			draft.Discard()
			return nil, err
		}
	}
	snap, err := draft.Commit(ctx)
	if err != nil {
		draft.Discard()
		return nil, err
	}
	return NewRef(snap), nil
}

func badRequest(err error) error { return cerrdefs.ErrInvalidArgument.WithMessage(err.Error()) }

// enter keeps the container until users.Done is called.
func (c *Container) enter() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.released {
		return errReleased
	}
	c.users.Add(1)
	return nil
}

// Start implements frontend.Container.
func (c *Container) Start(ctx context.Context, p frontend.Process) (_ frontend.Running, err error) {
	streams := closers(p)
	defer func() {
		if err != nil {
			closeStreams(streams)
		}
	}()
	process, err := c.process(ctx, p)
	if err != nil {
		return nil, err
	}
	if err := c.enter(); err != nil {
		return nil, err
	}
	running, err := c.start(process)
	if err != nil {
		c.users.Done()
		return nil, err
	}
	r := &containerProcess{running: running, done: make(chan struct{})}
	go func() {
		defer c.users.Done()
		defer close(r.done)
		r.err = running.Wait()
		closeStreams(streams)
		if errors.Is(r.err, errKilled) {
			c.mu.Lock()
			c.err = r.err
			c.mu.Unlock()
		}
	}()
	return r, nil
}

// start starts the main process, or a further one.
func (c *Container) start(p runc.Process) (*runc.Running, error) {
	c.mu.Lock()
	defer c.mu.Unlock() // a second process waits until the main one runs
	if !c.started {
		c.started = true
		return c.w.Executor.Start(c.life, p)
	}
	p.ID = newID()
	return c.w.Executor.Exec(c.life, c.base.ID, p)
}

// process checks what is to be run.
func (c *Container) process(ctx context.Context, p frontend.Process) (runc.Process, error) {
	// What a container may not have is told to whoever starts something in it.
	if err := c.opt.Permit.PermitNetwork(c.base.Network); err != nil {
		return runc.Process{}, err
	}
	if err := c.opt.Permit.PermitSecurity(p.Security); err != nil {
		return runc.Process{}, err
	}
	if err := llb.CheckMeta(p.Meta); err != nil {
		return runc.Process{}, badRequest(err)
	}
	out, err := newProcess(p.Meta, p.Meta.Env)
	if err != nil {
		return out, badRequest(err)
	}
	b := c.base
	out.ID, out.Rootfs, out.ReadOnly, out.Mounts, out.Network = b.ID, b.Rootfs, b.ReadOnly, b.Mounts, b.Network
	out.Proxy = b.Proxy
	if b.Hostname != "" {
		out.Hostname = b.Hostname
	}
	out.ExtraHosts = append(b.ExtraHosts[:len(b.ExtraHosts):len(b.ExtraHosts)], out.ExtraHosts...)
	out.Security, out.Terminal = p.Security, p.Tty
	if c.windows && !hasEnv(out.Env, "PATH") {
		out.Env = append([]string{"PATH=" + windowsPath}, out.Env...)
	}
	if p.Tty && !hasEnv(out.Env, "TERM") {
		out.Env = append([]string{"TERM=xterm"}, out.Env...)
	}
	// An interface that holds a nil pointer would not be nil.
	if p.Stdin != nil {
		out.Stdin = p.Stdin
	}
	if p.Stdout != nil {
		out.Stdout = p.Stdout
	}
	if p.Stderr != nil {
		out.Stderr = p.Stderr
	}
	for _, s := range p.SecretEnv {
		if s.GetName() == "" || strings.ContainsAny(s.GetName(), "=\x00") {
			return out, badRequest(fmt.Errorf("a secret cannot be an environment variable named %q", s.GetName()))
		}
	}
	return out, c.w.secretEnv(ctx, c.opt.Access.Group, p.SecretEnv, &out)
}

func hasEnv(env []string, name string) bool {
	for _, e := range env {
		if strings.HasPrefix(e, name+"=") {
			return true
		}
	}
	return false
}

// Open opens what the container sees at a mount, an index into the request's. What is
// opened must be closed before the container can be released.
func (c *Container) Open(mount int) (_ treehash.FS, done func(), _ error) {
	if mount < 0 || mount >= c.mounts {
		return nil, nil, badRequest(fmt.Errorf("the container has %d mounts, and none is number %d", c.mounts, mount))
	}
	if err := c.enter(); err != nil {
		return nil, nil, err
	}
	root, ok := c.m.roots[mount]
	if !ok {
		c.users.Done()
		return nil, nil, badRequest(fmt.Errorf("mount %d cannot be read from outside the container", mount))
	}
	dir, err := openLive(root)
	if err != nil {
		c.users.Done()
		return nil, nil, err
	}
	return dir, func() {
		dir.close()
		c.users.Done()
	}, nil
}

// Release kills what runs, waits for it and removes the container. It can be called again.
// If something had to be killed it returns what that ended with: context.Canceled.
func (c *Container) Release(ctx context.Context) error {
	c.mu.Lock()
	first := !c.released
	c.released = true
	c.mu.Unlock()
	if first {
		c.kill(errKilled)
		go func() {
			c.users.Wait()
			err := c.m.close()
			c.mu.Lock()
			c.err = errors.Join(c.err, err)
			c.mu.Unlock()
			close(c.freed)
		}()
	}
	select {
	case <-c.freed:
		return c.err
	case <-ctx.Done():
		return context.Cause(ctx) // it goes on
	}
}

// closers are the streams of a process that there are.
func closers(p frontend.Process) []interface{ Close() error } {
	var out []interface{ Close() error }
	if p.Stdin != nil {
		out = append(out, p.Stdin)
	}
	if p.Stdout != nil {
		out = append(out, p.Stdout)
	}
	if p.Stderr != nil {
		out = append(out, p.Stderr)
	}
	return out
}

func closeStreams(list []interface{ Close() error }) {
	for _, s := range list {
		_ = s.Close() // whoever reads them is told how the process ended
	}
}

// A containerProcess is a process in a container.
type containerProcess struct {
	running *runc.Running
	done    chan struct{}
	err     error // after done
}

// Wait implements frontend.Running.
func (p *containerProcess) Wait() error {
	<-p.done
	return p.err
}

// Signal implements frontend.Running.
func (p *containerProcess) Signal(_ context.Context, sig syscall.Signal) error {
	return p.running.Signal(sig)
}

// Resize implements frontend.Running.
func (p *containerProcess) Resize(_ context.Context, rows, cols uint32) error {
	return p.running.Resize(uint16(min(rows, math.MaxUint16)), uint16(min(cols, math.MaxUint16)))
}
