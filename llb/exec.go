package llb

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ExecOptions describe a process and what it sees.
type ExecOptions struct {
	Root         Output // its root filesystem
	RootReadonly bool   // then the exec has no output of its own for the root

	Args         []string // required
	Env          []string // "K=V"; the last of equal names counts
	EnvIsUnique  bool     // Env has no equal names, and nobody changes it
	Cwd          string   // required, absolute
	User         string   // "uid[:gid]" or names in Root
	Hostname     string
	CgroupParent string
	ExitCodes    []int32 // the statuses that mean success; none means 0
	ExtraHosts   []*pb.HostIP
	Ulimits      []*pb.Ulimit
	Proxy        *pb.ProxyEnv // not part of what the cache compares
	Devices      []*pb.CDIDevice

	Network  pb.NetMode
	Security pb.SecurityMode

	Mounts  []Mount
	Secrets []Secret
	SSH     []SSH

	Platform *ocispec.Platform // nil: that of Root, or the one given to Marshal
}

// A Mount is a filesystem that a process sees at Target. It is a bind mount of Source,
// or, if CacheID or Tmpfs is set, of that kind.
type Mount struct {
	Target   string
	Source   Output // for a cache mount what it starts with; not for a tmpfs
	Selector string // the path inside Source that is mounted
	Readonly bool
	NoOutput bool // writes are thrown away

	CacheID      string
	Sharing      pb.CacheSharingOpt
	Tmpfs        bool
	TmpfsSize    int64 // bytes; 0 is unlimited
	ContentCache pb.MountContentCache
}

func (m *Mount) hasOutput() bool {
	return !m.NoOutput && !m.Readonly && m.CacheID == "" && !m.Tmpfs
}

// A Secret is shown as a file at Target, as the environment variable Env, or both.
type Secret struct {
	ID       string
	Target   string
	Env      string
	UID, GID uint32
	Mode     uint32 // permission bits of the file, such as 0o400
	Optional bool
}

// SSH is a socket of an agent that the client lends. An empty Target means
// /run/buildkit/ssh_agent.N, where N counts the sockets of the exec.
type SSH struct {
	ID       string
	Target   string
	UID, GID uint32
	Mode     uint32 // permission bits of the socket, such as 0o600
	Optional bool
}

// An ExecResult gives the outputs of an exec.
type ExecResult struct{ mounts []mountResult }

type mountResult struct {
	target string
	out    Output
}

// Root is the root filesystem after the process. If it was read-only, that is what it
// was before.
func (r ExecResult) Root() Output {
	o, _ := r.Mount(pb.RootMount)
	return o
}

// Mount is what is mounted at target after the process: the mount's source if it was
// read-only. ok is false if there is no such mount or its content is not kept.
func (r ExecResult) Mount(target string) (_ Output, ok bool) {
	for _, m := range slices.Backward(r.mounts) { // of two at one place, the later hides the earlier
		if m.target == target {
			return m.out, true
		}
	}
	return Output{}, false
}

// Exec runs a process.
func Exec(o ExecOptions, m Meta) ExecResult {
	n := &node{meta: m, platform: o.Platform, hasPlatform: true}
	n.inherit(o.Root)
	// Mounts are ordered by target, which gives the inputs and outputs their numbers.
	mounts := append([]Mount{{Target: pb.RootMount, Source: o.Root, Readonly: o.RootReadonly}}, o.Mounts...)
	slices.SortStableFunc(mounts, func(a, b Mount) int { return cmp.Compare(a.Target, b.Target) })
	n.err = checkExec(&o, mounts)
	ssh := slices.Clone(o.SSH)
	for i := range ssh {
		if ssh[i].Target == "" {
			ssh[i].Target = fmt.Sprintf("/run/buildkit/ssh_agent.%d", i)
		}
	}
	env := slices.Clip(o.Env)
	if !o.EnvIsUnique {
		env = dedupEnv(o.Env)
	}
	if len(ssh) > 0 && !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "SSH_AUTH_SOCK=") }) {
		env = append(env, "SSH_AUTH_SOCK="+ssh[0].Target)
	}

	res := ExecResult{mounts: make([]mountResult, 0, len(mounts))}
	next := 0
	for i := range mounts {
		mt := &mounts[i]
		n.use(mt.Source)
		switch {
		case mt.hasOutput():
			res.mounts = append(res.mounts, mountResult{mt.Target, Output{node: n, index: next}})
			next++
		case mt.Readonly:
			res.mounts = append(res.mounts, mountResult{mt.Target, mt.Source})
		}
	}
	n.execCaps(&o, mounts)
	n.op = func(in func(Output) int64) *pb.Op {
		op := &pb.ExecOp{
			Meta: &pb.Meta{
				Args:                      o.Args,
				Env:                       env,
				Cwd:                       o.Cwd,
				User:                      o.User,
				ProxyEnv:                  o.Proxy,
				ExtraHosts:                o.ExtraHosts,
				Hostname:                  o.Hostname,
				Ulimit:                    o.Ulimits,
				CgroupParent:              o.CgroupParent,
				RemoveMountStubsRecursive: true,
				ValidExitCodes:            o.ExitCodes,
			},
			Network:    o.Network,
			Security:   o.Security,
			CdiDevices: o.Devices,
		}
		next := int64(0)
		for i := range mounts {
			mt := &mounts[i]
			out := int64(pb.SkipOutput)
			if mt.hasOutput() {
				out = next
				next++
			}
			op.Mounts = append(op.Mounts, mt.pb(in(mt.Source), out))
		}
		for _, s := range o.Secrets {
			if s.Env != "" {
				op.Secretenv = append(op.Secretenv, &pb.SecretEnv{ID: s.ID, Name: s.Env, Optional: s.Optional})
			}
			if s.Target != "" {
				op.Mounts = append(op.Mounts, &pb.Mount{
					Input: int64(pb.Empty), Dest: s.Target, MountType: pb.MountType_SECRET,
					SecretOpt: &pb.SecretOpt{ID: s.ID, Uid: s.UID, Gid: s.GID, Mode: s.Mode, Optional: s.Optional},
				})
			}
		}
		for _, s := range ssh {
			op.Mounts = append(op.Mounts, &pb.Mount{
				Input: int64(pb.Empty), Dest: s.Target, MountType: pb.MountType_SSH,
				SSHOpt: &pb.SSHOpt{ID: s.ID, Uid: s.UID, Gid: s.GID, Mode: s.Mode, Optional: s.Optional},
			})
		}
		return &pb.Op{Op: &pb.Op_Exec{Exec: op}}
	}
	return res
}

func (m *Mount) pb(input, output int64) *pb.Mount {
	out := &pb.Mount{
		Input:        input,
		Selector:     m.Selector,
		Dest:         m.Target,
		Output:       output,
		Readonly:     m.Readonly,
		ContentCache: m.ContentCache,
	}
	if m.CacheID != "" {
		out.MountType = pb.MountType_CACHE
		out.CacheOpt = &pb.CacheOpt{ID: m.CacheID, Sharing: m.Sharing}
	}
	if m.Tmpfs {
		out.MountType = pb.MountType_TMPFS
		out.TmpfsOpt = &pb.TmpfsOpt{Size: m.TmpfsSize}
	}
	return out
}

func checkExec(o *ExecOptions, mounts []Mount) error {
	if len(o.Args) == 0 {
		return errors.New("a process needs arguments")
	}
	if o.Cwd == "" {
		return errors.New("a process needs a working directory")
	}
	for _, m := range mounts { // of two at one place, the later hides the earlier
		if m.Target == "" {
			return errors.New("a mount needs a target")
		}
		if m.Tmpfs && (!m.Source.IsScratch() || m.CacheID != "") {
			return fmt.Errorf("the tmpfs at %s starts empty, so it cannot have a source", m.Target)
		}
	}
	return nil
}

// dedupEnv keeps the last of equal names, at the place of the last.
func dedupEnv(env []string) []string {
	seen := make(map[string]bool, len(env))
	out := make([]string, 0, len(env)+1)
	for _, e := range slices.Backward(env) {
		name, _, ok := strings.Cut(e, "=")
		if !ok {
			e += "="
		}
		if !seen[name] {
			seen[name] = true
			out = append(out, e)
		}
	}
	slices.Reverse(out)
	return out
}

func (n *node) execCaps(o *ExecOptions, mounts []Mount) {
	n.caps = make([]apicaps.CapID, 0, 8)
	n.addCap(pb.CapExecMetaBase)
	n.addCap(pb.CapExecMetaSetsDefaultPath)
	if o.ExitCodes != nil {
		n.addCap(pb.CapExecValidExitCode)
	}
	if len(o.Ulimits) > 0 {
		n.addCap(pb.CapExecMetaUlimit)
	}
	if n.meta.Resources != nil {
		n.addCap(pb.CapExecMetaLinuxResources)
	}
	if o.Network != pb.NetMode_UNSET {
		n.addCap(pb.CapExecMetaNetwork)
	}
	if o.Security != pb.SecurityMode_SANDBOX {
		n.addCap(pb.CapExecMetaSecurity)
	}
	if o.Proxy != nil {
		n.addCap(pb.CapExecMetaProxy)
	}
	if len(o.Devices) > 0 {
		n.addCap(pb.CapExecMetaCDI)
	}
	for i := range mounts {
		m := &mounts[i]
		if m.Selector != "" {
			n.addCap(pb.CapExecMountSelector)
		}
		switch {
		case m.CacheID != "":
			n.addCap(pb.CapExecMountCache)
			n.addCap(pb.CapExecMountCacheSharing)
		case m.Tmpfs:
			n.addCap(pb.CapExecMountTmpfs)
			if m.TmpfsSize > 0 {
				n.addCap(pb.CapExecMountTmpfsSize)
			}
		case !m.Source.IsScratch():
			n.addCap(pb.CapExecMountBind)
		}
		if m.ContentCache != pb.MountContentCache_DEFAULT {
			n.addCap(pb.CapExecMountContentCache)
		}
	}
	if len(o.Secrets) > 0 {
		n.addCap(pb.CapExecMountSecret)
	}
	for _, s := range o.Secrets {
		if s.Env != "" {
			n.addCap(pb.CapExecSecretEnv)
		}
	}
	if len(o.SSH) > 0 {
		n.addCap(pb.CapExecMountSSH)
	}
}
