package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker/runc"
	"github.com/dbuild/dbuild/worker/runc/proxy"
	"github.com/dbuild/dbuild/worker/runc/usage"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// execOp runs a process in a container.
type execOp struct {
	w           *Worker
	op          *pb.ExecOp
	id          solver.ID
	inputs      int
	outputs     int
	name        string
	resources   *pb.LinuxResources
	description map[string]string
	devices     []string // full names
	foreign     string   // the platform, if nothing here runs it
	anew        bool     // cache mounts start empty
	platform    *pb.Platform
	limits      llb.RunLimits
	proxied     bool                   // see LoadOptions
	caches      map[*pb.Mount]CacheUse // without those that are bound to this machine
}

// ExecError says that a process of the build failed.
type ExecError struct {
	Args []string
	Err  error // a *runc.ExitError, if the process ran
	// Foreign is the platform of a process that this machine most likely cannot run.
	Foreign string
}

func (e *ExecError) Error() string {
	msg := fmt.Sprintf("process %q did not complete successfully: %v", strings.Join(e.Args, " "), e.Err)
	if e.Foreign != "" {
		msg += fmt.Sprintf("; it is for %s, for which this machine has no emulator: install one that registers with binfmt_misc, such as the package qemu-user-static", e.Foreign)
	}
	return msg
}

// Unwrap returns what the process ended with.
func (e *ExecError) Unwrap() error { return e.Err }

// newExecOp checks what the loader of the graph cannot: that mounts fit together.
func newExecOp(w *Worker, v *llb.Vertex, exec *pb.ExecOp, opt LoadOptions) (*execOp, error) {
	o := &execOp{w: w, op: exec, inputs: len(v.Inputs), outputs: v.Outputs, name: vertexName(v), resources: v.Meta.GetLinuxResources(), description: v.Meta.GetDescription(), anew: v.Meta.GetIgnoreCache() && !llb.RunsAlways(v.Meta.GetDescription()), foreign: w.foreign(v.Op.Platform), platform: v.Op.Platform}
	o.proxied = opt.Proxied && exec.Network != pb.NetMode_NONE
	grants := opt.Devices
	var err error
	if o.limits, err = llb.LimitsOf(o.description); err != nil {
		return nil, fmt.Errorf("limits of a process: %w", err)
	}
	keyed := exec.CloneVT()
	keyed.Meta.ProxyEnv = nil // a proxy changes how bytes travel, not what they are
	if o.devices, err = w.devices(exec.CdiDevices, grants, o.name); err != nil {
		return nil, err
	}
	for _, d := range keyed.CdiDevices {
		d.Name = cmp.Or(grants.Aliases[d.Name], d.Name)
	}
	kind := "exec"
	if o.proxied {
		kind = "exec proxied" // what it fetched is known of all such results
	}
	o.id, err = opID(kind, &pb.Op{Op: &pb.Op_Exec{Exec: keyed}, Platform: v.Op.Platform})
	if err != nil {
		return nil, err
	}
	root := false
	for _, m := range exec.Mounts {
		root = root || m.Dest == pb.RootMount
	}
	if !root {
		return nil, errors.New("a process has no root filesystem: no mount has the destination /")
	}
	o.caches = portable(v)
	return o, nil
}

// input is what a mount starts from, or -1. Clients leave the index of mounts that have
// no input at zero.
func input(m *pb.Mount) int {
	if m.MountType == pb.MountType_BIND || m.MountType == pb.MountType_CACHE {
		return int(m.Input)
	}
	return -1
}

// output is which result a mount becomes, or -1.
func output(m *pb.Mount) int {
	if m.MountType == pb.MountType_BIND {
		return int(m.Output)
	}
	return -1
}

// byContent says whether input i is keyed by the content of what is mounted: only if
// nothing of it becomes a result.
func (o *execOp) byContent(i int) bool {
	seen := false
	for _, m := range o.op.Mounts {
		if input(m) != i {
			continue
		}
		if m.Dest == pb.RootMount || output(m) >= 0 || m.MountType != pb.MountType_BIND ||
			m.ContentCache == pb.MountContentCache_OFF {
			return false
		}
		seen = true
	}
	return seen
}

func (o *execOp) Spec(context.Context, solver.Demand) (solver.Spec, error) {
	slots := make([]solver.Slot, o.inputs)
	for i := range slots {
		if !o.byContent(i) {
			continue
		}
		var parts []treehash.Part
		var reads llb.Reads
		for _, m := range o.op.Mounts {
			if input(m) == i {
				reads = reads.Or(llb.ReadsOf(o.description, m.Dest))
				parts = append(parts, treehash.Part{Path: m.Selector, FollowLinks: true})
			}
		}
		slots[i] = o.w.contentSlot(i, parts, reads)
	}
	return solver.Spec{ID: o.id, Slots: slots}, nil
}

func (o *execOp) Run(ctx context.Context, d solver.Demand, _ solver.Spec, in []solver.Ref) ([]solver.Ref, error) {
	if err := o.w.acquire(ctx, d); err != nil {
		return nil, err
	}
	defer o.w.release()
	return o.tries(ctx, d, func(try int) ([]solver.Ref, error) { return o.once(ctx, d, in, try) })
}

// once is one try.
func (o *execOp) once(ctx context.Context, d solver.Demand, in []solver.Ref, try int) ([]solver.Ref, error) {
	m := &mounting{w: o.w, access: o.w.access(d), id: newID(), name: o.name, anew: o.anew, demand: d, uses: o.caches}
	refs, err := o.run(ctx, d, m, in, try)
	if cleanErr := m.close(); err == nil && cleanErr != nil {
		for _, r := range refs {
			r.Release()
		}
		return nil, cleanErr
	}
	return refs, err
}

func (o *execOp) run(ctx context.Context, d solver.Demand, m *mounting, in []solver.Ref, try int) ([]solver.Ref, error) {
	p, err := newProcess(o.op.Meta, llb.EnvOf(o.description, o.op.Meta.Env))
	if err != nil {
		return nil, err
	}
	p.ID, p.Network, p.Security, p.Resources = m.id, o.op.Network, o.op.Security, o.resources
	if err := o.w.secretEnv(ctx, m.access.Group, o.op.Secretenv, &p); err != nil {
		return nil, err
	}
	if len(o.devices) > 0 {
		p.Edit = func(s *specs.Spec) error { return o.w.Devices.Inject(s, o.devices) }
	}
	if err := m.mount(ctx, o.op.Mounts, in, &p); err != nil {
		return nil, err
	}

	if o.proxied {
		m.fetched = new(proxy.Record)
		p.Proxy = &runc.Proxy{Judge: judgeFor(d), Record: m.fetched}
	}
	if asksUsage(d) {
		p.Measured = func(list []usage.Sample) { m.used = list }
	}

	stdout, stderr := d.Log().Output(1), d.Log().Output(2)
	p.Stdout, p.Stderr = stdout, stderr
	err = o.execute(ctx, p, o.limits)
	printFetches(stderr, m.fetched)
	stdout.Close()
	stderr.Close()
	if err = o.judge(ctx, err); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		if o.again(try, err) {
			return nil, err
		}
		if try > 1 {
			err = &TriesError{Tries: try, Err: err}
		}
		f := &Failure{Err: err, Action: -1, Input: -1, Inputs: make([]solver.Ref, len(o.op.Mounts))}
		for i, mt := range o.op.Mounts {
			if n := input(mt); n >= 0 {
				f.Inputs[i] = in[n]
			}
		}
		return nil, fail(d, f, func() []solver.Ref { return o.left(ctx, m, in) })
	}
	refs, err := m.commit(ctx, o.op.Mounts, o.outputs)
	if err != nil {
		return nil, err
	}
	for _, r := range refs {
		if s := r.(*Ref).snap; s != nil {
			o.w.warm(d, s)
		}
	}
	return refs, nil
}

// judge says whether a process that ended with err did what it should.
func (o *execOp) judge(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	valid := o.op.Meta.ValidExitCodes
	var exit *runc.ExitError
	var unclean *runc.UncleanError
	switch {
	case errors.As(err, &unclean): // whatever the process says
	case errors.As(err, &exit):
		if slices.Contains(valid, int32(exit.Code)) {
			return nil
		}
	case err == nil:
		if len(valid) == 0 || slices.Contains(valid, 0) {
			return nil
		}
		err = &runc.ExitError{}
	}
	failed := &ExecError{Args: o.op.Meta.Args, Err: err}
	var late *TimeoutError
	if exit == nil && !errors.As(err, &late) || exit != nil && (exit.Code == notRun || exit.Code == notExecutable) {
		failed.Foreign = o.foreign
	}
	return failed
}

// Exit codes that may mean that the kernel did not know the program's format.
const (
	notExecutable = 126
	notRun        = 255
)

// foreign is p if none of the worker's platforms is like it. "" is a platform that can run.
func (w *Worker) foreign(p *pb.Platform) string {
	if p == nil || slices.ContainsFunc(w.Platforms, func(own ocispec.Platform) bool {
		return own.OS == p.OS && own.Architecture == p.Architecture
	}) {
		return ""
	}
	return platforms.Format(p.Spec())
}

func (w *Worker) acquire(ctx context.Context, d solver.Demand) error {
	if w.processes == nil || w.processes.TryAcquire(1) {
		return nil
	}
	waiting := d.Log().Track("waiting for a free process slot")
	defer waiting.Done()
	return w.processes.Acquire(ctx, 1)
}

func (w *Worker) release() {
	if w.processes != nil {
		w.processes.Release(1)
	}
}
