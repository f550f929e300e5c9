package buildkit

import (
	"path"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Exec identifies a process. It is ok false for one that uses devices: which those are is
// known to the daemon that runs it.
func Exec(op *pb.ExecOp, p *pb.Platform, inputs int) (_ Step, ok bool, _ error) {
	if len(op.CdiDevices) > 0 {
		return Step{}, false, nil
	}
	s := Step{Inputs: make([]Input, inputs)}
	readByExec(s.Inputs, op.Mounts)

	op = op.CloneVT()
	op.Meta.ProxyEnv = nil
	for _, h := range op.Meta.ExtraHosts {
		h.IP = ""
	}
	for _, m := range op.Mounts {
		m.Selector = ""
		if o := m.CacheOpt; o != nil && !defaultCache(m) {
			o.ID, o.Sharing = "", 0
		}
	}
	if len(op.Mounts) == 1 && plainRoot(op.Mounts[0]) {
		op.Mounts = nil
	}
	pl := normal(p)
	var err error
	s.Digest, err = identity(struct {
		Type       string
		Exec       *pb.ExecOp
		OS         string
		Arch       string
		Variant    string   `json:",omitempty"`
		OSVersion  string   `json:",omitempty"`
		OSFeatures []string `json:",omitempty"`
	}{"buildkit.exec.v0", op, pl.OS, pl.Architecture, pl.Variant, pl.OSVersion, pl.OSFeatures})
	return s, err == nil, err
}

// normal is the platform that BuildKit's loader gives a step.
func normal(p *pb.Platform) ocispec.Platform {
	if p == nil {
		return platforms.Normalize(platforms.DefaultSpec())
	}
	return platforms.Normalize(ocispec.Platform{
		OS: p.OS, Architecture: p.Architecture, Variant: p.Variant, OSVersion: p.OSVersion, OSFeatures: p.OSFeatures,
	})
}

// defaultCache reports whether a cache mount is called as RUN --mount=type=cache calls it
// without an id, with or without a namespace.
func defaultCache(m *pb.Mount) bool {
	if m.CacheOpt.Sharing != 0 {
		return false
	}
	_, rest, namespaced := strings.Cut(m.CacheOpt.ID, "/")
	return m.CacheOpt.ID == m.Dest || namespaced && rest == m.Dest
}

// plainRoot reports whether a mount is what every RUN has.
func plainRoot(m *pb.Mount) bool {
	return m.Dest == pb.RootMount && !m.Readonly && m.MountType == pb.MountType_BIND &&
		m.CacheOpt == nil && m.SSHOpt == nil && m.SecretOpt == nil && m.ResultID == ""
}

// readByExec says how mounts read the inputs. Of several mounts of one input the last one
// decides whether its content counts.
func readByExec(inputs []Input, mounts []*pb.Mount) {
	paths := make([][]string, len(inputs))
	byContent := make([]bool, len(inputs))
	for _, m := range mounts {
		switch m.MountType {
		case pb.MountType_SECRET, pb.MountType_SSH, pb.MountType_TMPFS:
			continue
		}
		if m.Input < 0 || int(m.Input) >= len(inputs) {
			continue
		}
		at := path.Join("/", m.Selector)
		paths[m.Input] = append(paths[m.Input], at)
		safe := m.Output == int64(pb.SkipOutput) || m.Readonly || at == pb.RootMount
		switch {
		case m.ContentCache == pb.MountContentCache_OFF, m.ContentCache == pb.MountContentCache_DEFAULT && m.Dest == pb.RootMount:
			safe = false
		}
		byContent[m.Input] = safe
	}
	for i, list := range paths {
		if len(list) == 0 {
			continue
		}
		inputs[i].Selector = digest.FromString(strings.Join(list, "\x00"))
		if byContent[i] {
			inputs[i].Content = mounted(outermost(list))
		}
	}
}

// mounted is what is digested of an input that is mounted at these paths.
func mounted(paths []string) []Selector {
	var out []Selector
	for _, p := range paths {
		if p == "" || p == "/" {
			return []Selector{{}}
		}
		out = append(out, Selector{Path: p, FollowLinks: true})
	}
	return out
}
