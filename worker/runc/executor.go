package runc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/sys/userns"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"

	"github.com/dbuild/dbuild/worker/runc/launcher"
	"github.com/dbuild/dbuild/worker/runc/network"
	"github.com/dbuild/dbuild/worker/runc/rootfs"
	"github.com/dbuild/dbuild/worker/runc/spec"
)

// ErrClosed is returned by Run after Close.
var ErrClosed = errors.New("the executor is closed")

// An Executor runs processes in containers, any number at once.
type Executor struct {
	config   Config
	cgroups  cgroups
	network  *network.Network
	resolv   resolvConf
	stubs    sharedStubs
	runtime  runtime
	rootless bool
	warnings []string

	life context.Context // ends with Close
	end  context.CancelCauseFunc

	mu      sync.Mutex
	closed  bool                  // under mu; no run starts after it is set
	watched map[string]*container // under mu; by ID, those that may get more processes
	running sync.WaitGroup        // runs
}

// A runtime makes containers.
type runtime interface {
	// run runs the container and removes it, also if ctx is done. The error is an
	// *ExitError if the command did not succeed.
	run(ctx context.Context, c *container) error
	// exec runs one more process in a container that is watched.
	exec(ctx context.Context, c *container, x *execution) error
	// openStdio makes the standard files of a process.
	openStdio(p *Process) (*stdio, error)
	// name says what it is, with its version.
	name() string
	// warm gets ready for a first container.
	warm()
	// sweep removes what containers of an earlier process left in the runtime's state.
	sweep(ctx context.Context) error
	close()
}

// A container is what a runtime is asked for.
type container struct {
	id      string
	dir     string // of its own, exists only if a runtime makes it
	spec    *specs.Spec
	seccomp string // profile, see launcher.Profile
	std     *stdio
	watch   *Running // nil if nobody talks to it
	proxied bool     // has a proxy
}

// An execution is one more process in a container.
type execution struct {
	id      string
	process *specs.Process
	std     *stdio
	watch   *Running
}

// Init must be the first call in main: if this process was started to make a container it
// never returns.
func Init() { launcher.Init() }

// New makes an executor. Sweep should be called before the first Run if an earlier process
// used the same Root.
func New(c Config) (*Executor, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Root, 0o700); err != nil {
		return nil, fmt.Errorf("executor: %w", err)
	}
	e := &Executor{config: c, rootless: userns.RunningInUserNS(), watched: map[string]*container{}}
	e.life, e.end = context.WithCancelCause(context.Background())
	e.cgroups = newCgroups(c.Root, c.CgroupParent)
	var err error
	if c.Runtime == "" {
		e.runtime, err = newLinked(e)
	} else {
		e.runtime, err = newCommand(e)
	}
	if err != nil {
		return nil, fmt.Errorf("executor: %w", err)
	}
	var warnings []string
	e.network, warnings, err = network.New(c.Root, c.Network)
	if err != nil {
		e.runtime.close()
		return nil, fmt.Errorf("executor: %w", err)
	}
	e.warnings = append(e.warnings, warnings...)
	e.resolv = resolvConf{path: filepath.Join(c.Root, "resolv.conf"), dns: c.DNS}
	return e, nil
}

// Warnings are the things that are not as they should be, for the daemon's log.
func (e *Executor) Warnings() []string { return e.warnings }

// Runtime names the runtime and its version.
func (e *Executor) Runtime() string { return e.runtime.name() }

// NetworkName is what steps get if they ask for nothing: "bridge", "cni", "host" or "none".
func (e *Executor) NetworkName() string { return e.network.Name() }

// Warm starts in the background what the first Run would have to wait for. It returns at
// once and may be called often.
func (e *Executor) Warm() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return
	}
	e.running.Go(e.runtime.warm)
	e.network.Warm()
}

// Close kills what still runs, waits for it, and removes the executor's files, cgroups and
// network devices.
func (e *Executor) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.mu.Unlock()
	e.end(ErrClosed)
	e.running.Wait()
	e.runtime.close()
	return errors.Join(e.network.Close(), e.cgroups.kill(context.WithoutCancel(e.life)), e.removeFiles())
}

// Sweep removes what an earlier process with the same Root left: processes, cgroups,
// network devices, files. It must not be called while something runs; calling it again does
// no harm.
func (e *Executor) Sweep(ctx context.Context) error {
	return errors.Join(e.cgroups.kill(ctx), e.runtime.sweep(ctx), e.network.Sweep(ctx), e.removeFiles())
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

func (p *Process) check() error {
	if !idPattern.MatchString(p.ID) {
		return errBadID(p.ID)
	}
	switch p.Security {
	case pb.SecurityMode_SANDBOX, pb.SecurityMode_INSECURE:
	default:
		return fmt.Errorf("security mode %d is not known", p.Security)
	}
	switch p.Network {
	case pb.NetMode_UNSET, pb.NetMode_HOST, pb.NetMode_NONE:
	default:
		return fmt.Errorf("network mode %d is not known", p.Network)
	}
	if len(p.Args) == 0 {
		return errNoCommand
	}
	return nil
}

var errNoCommand = errors.New("no command to run")

// Run runs a process to its end. The error is nil if it exited with status 0, wraps an
// [*ExitError] if it ended otherwise or could not be executed, and is ctx's cause if ctx was
// done first: then the process was killed.
func (e *Executor) Run(ctx context.Context, p Process) error {
	ctx, done, err := e.enter(ctx)
	if err != nil {
		return err
	}
	defer done()
	err = e.run(ctx, &p, nil)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// enter begins a run. The context it returns also ends with the executor.
func (e *Executor) enter(ctx context.Context) (_ context.Context, done func(), _ error) {
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil, nil, ErrClosed
	}
	e.running.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(e.life, func() { cancel(ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		e.running.Done()
	}, nil
}

// run runs the process, and has watch, if not nil, told about it.
func (e *Executor) run(ctx context.Context, p *Process, watch *Running) (err error) {
	if err := p.check(); err != nil {
		return err
	}
	// The runtimes want a path without links.
	if p.Rootfs, err = filepath.EvalSymlinks(p.Rootfs); err != nil {
		return fmt.Errorf("root file system: %w", err)
	}
	user, err := rootfs.LookupUser(p.Rootfs, p.User)
	if err != nil {
		return err
	}
	conn, err := e.connect(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = conn.leave(err) }()
	ns := conn.ns

	files, err := e.stepFiles(p, ns)
	if err != nil {
		return err
	}
	defer files.remove()
	mounts, targets, err := bindMounts(p.Mounts, p.Cwd)
	if err != nil {
		return err
	}
	cgroup, err := e.cgroups.path(p.CgroupParent, p.ID)
	if err != nil {
		return err
	}
	if p.Measured != nil {
		around := cgroup
		cgroup = path.Join(around, "step")
		defer e.measure(ctx, around, conn.counters, p.Measured)()
	}
	insecure := p.Security == pb.SecurityMode_INSECURE
	s, err := spec.Generate(spec.Options{
		Rootfs: p.Rootfs, ReadOnly: p.ReadOnly,
		Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		UID: user.UID, GID: user.GID, Groups: user.Groups, Home: user.Home,
		Hostname: p.Hostname, Mounts: mounts, HostsFile: files.hosts, ResolvConf: files.resolvConf,
		Ulimits: p.Ulimits, Resources: p.Resources, PidsLimit: e.config.PidsLimit, OOMScoreAdj: e.config.OOMScoreAdj,
		CgroupsPath: cgroup, CgroupMount: insecure || e.cgroups.mount(p.Resources),
		HostNetwork: ns.Host, NetNS: ns.Path,
		Insecure: insecure, AllowNewPrivilege: e.config.AllowNewPrivileges, AppArmorProfile: e.config.AppArmorProfile,
	})
	if err != nil {
		return err
	}
	s.Process.Terminal = p.Terminal
	if p.Edit != nil {
		known := make(map[string]bool)
		for _, m := range s.Mounts {
			known[m.Destination] = true
		}
		if err := p.Edit(s); err != nil {
			return err
		}
		targets = append(targets, addedTargets(s.Mounts, known)...)
	}
	c := &container{id: p.ID, dir: files.dir, spec: s, watch: watch, proxied: e.isProxied(p)}
	if !insecure {
		c.seccomp = e.seccompProfile()
	}

	removeStubs, err := e.stubs.make(p.Rootfs, append(defaultTargets(), targets...), p.RemoveStubsRecursive)
	if err != nil {
		return err
	}
	defer removeStubs()
	if c.std, err = e.runtime.openStdio(p); err != nil {
		return err
	}
	if watch != nil {
		watch.open(c.std)
		defer e.watch(c)()
	}
	if p.Timeout > 0 {
		var stop func() bool
		ctx, stop = e.deadline(ctx, p, cgroup)
		defer func() {
			if stop() {
				err = ErrTimeout
			}
		}()
	}
	err = e.runtime.run(ctx, c)
	return errors.Join(err, c.std.finish())
}

// A connection is the network of a run.
type connection struct {
	ns *network.Namespace
	// leave must be called after the run, with its error, and returns what that has become.
	leave func(error) error
	// counters counts what the run sends and receives; ok is false if that is not known.
	counters func() (c netlink.LinkStatistics, ok bool)
}

func (e *Executor) connect(ctx context.Context, p *Process) (connection, error) {
	if e.isProxied(p) {
		x, err := e.openProxy(ctx, p)
		return connection{x.ns, x.close, x.counters}, err
	}
	ns, err := e.network.Acquire(ctx, p.Network, p.Hostname)
	if err != nil {
		return connection{}, fmt.Errorf("network: %w", err)
	}
	leave := func(err error) error {
		ns.Release()
		return err
	}
	return connection{ns, leave, ns.Counters}, nil
}

// seccompProfile is the profile of sandboxed steps.
func (e *Executor) seccompProfile() string {
	if e.config.SeccompProfile != "" {
		return e.config.SeccompProfile
	}
	return launcher.DefaultProfile
}
