package buildkit

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/solver"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Step is how BuildKit identifies an operation apart from what it is made from.
type Step struct {
	Digest  digest.Digest
	Inputs  []Input
	Outputs int
	// Read opens an input for Sum, if its files are here. The functions of this package
	// leave it to others to set it, and Outputs.
	Read func(context.Context, solver.Demand, solver.Ref) (Tree, error)
}

// An Op is an operation that may have a name in BuildKit.
type Op interface {
	// BuildKit returns what BuildKit calls the operation; ok is false if that is not known.
	BuildKit(solver.Spec) (_ Step, ok bool)
}

// Name asks an operation for its name.
func Name(op solver.Op, spec solver.Spec) (Step, bool) {
	if op, ok := op.(Op); ok {
		return op.BuildKit(spec)
	}
	return Step{}, false
}

// Slot returns how the content of input i is digested, or ok false if that does not count.
func (s Step) Slot(i int) (_ solver.Slot, ok bool) {
	parts := s.Inputs[i].Content
	if len(parts) == 0 || s.Read == nil {
		return solver.Slot{}, false
	}
	part, err := identity(struct {
		Kind  string
		Parts []Selector
	}{"dbuild-buildkit-part-1", parts})
	if err != nil {
		return solver.Slot{}, false
	}
	return solver.Slot{
		Part: solver.Part(raw(part)),
		Content: func(ctx context.Context, d solver.Demand, ref solver.Ref) (solver.Sum, error) {
			tree, err := s.Read(ctx, d, ref)
			if err != nil {
				return solver.Sum{}, err
			}
			sum, err := Sum(ctx, tree, parts)
			if err != nil {
				return solver.Sum{}, err
			}
			return solver.Sum(raw(sum)), nil
		},
	}, true
}

// raw returns the bytes of a digest that this package computed.
func raw(d digest.Digest) (out [32]byte) {
	_, _ = hex.Decode(out[:], []byte(d.Encoded()))
	return out
}

// An Input is how a step reads one of its inputs.
type Input struct {
	// Selector goes with links to outputs; "" for all of it.
	Selector digest.Digest
	// Content lists what Sum is to digest, if the input may be known by its content.
	Content []Selector
}

// A Selector names a part of a tree. A part without wildcard and patterns is one path with
// all that is beneath it.
type Selector struct {
	Path             string
	Wildcard         bool
	FollowLinks      bool
	Include, Exclude []string
}

func (s Selector) plain() bool { return !s.Wildcard && len(s.Include) == 0 && len(s.Exclude) == 0 }

// Record is the digest of the record of one output of a step.
func Record(step digest.Digest, output int) digest.Digest {
	return digest.FromString(step.String() + "@" + strconv.Itoa(output))
}

// ContentRecord is the digest of the record of what Sum returned.
func ContentRecord(sum solver.Sum) digest.Digest {
	return Record(digest.NewDigestFromBytes(digest.SHA256, sum[:]), -1)
}

// An identity is what a step's digest is made of.
func identity(v any) (digest.Digest, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("name a step as BuildKit does: %w", err)
	}
	return digest.FromBytes(b), nil
}

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

// outermost leaves out paths beneath others of the list, and sorts it. One path stays as
// it is.
func outermost(paths []string) []string {
	if len(paths) < 2 {
		return paths
	}
	sorted := slices.Compact(slices.Sorted(slices.Values(paths)))
	var out []string
	for _, p := range sorted {
		if !slices.ContainsFunc(sorted, func(q string) bool {
			return p != q && strings.HasPrefix(p, strings.TrimSuffix(q, "/")+"/")
		}) {
			out = append(out, p)
		}
	}
	return out
}

// File identifies file actions.
func File(op *pb.FileOp, inputs int) (_ Step, ok bool, _ error) {
	selectors := make([][]Selector, inputs)
	written := make([]bool, inputs)
	actions := make([][]byte, 0, len(op.Actions))
	indexes := make([][]int, 0, len(op.Actions))
	read := func(i int64, s Selector) bool {
		if i < 0 || int(i) >= inputs {
			return false
		}
		selectors[i] = append(selectors[i], s)
		return true
	}
	for _, a := range op.Actions {
		if a.Input >= 0 && int(a.Input) < inputs {
			written[a.Input] = true
		}
		var what any
		var owner *pb.ChownOpt
		switch k := a.Action.(type) {
		case *pb.FileAction_Mkdir:
			what, owner = k.Mkdir, k.Mkdir.Owner
		case *pb.FileAction_Mkfile:
			what, owner = k.Mkfile, k.Mkfile.Owner
		case *pb.FileAction_Symlink:
			what, owner = k.Symlink, k.Symlink.Owner
		case *pb.FileAction_Rm:
			what = k.Rm
		case *pb.FileAction_Copy:
			c := k.Copy
			owner = c.Owner
			if read(a.SecondaryInput, Selector{
				Path: c.Src, Wildcard: c.AllowWildcard && wild(c.Src), FollowLinks: c.FollowSymlink,
				Include: c.IncludePatterns, Exclude: c.ExcludePatterns,
			}) {
				c = c.CloneVT()
				c.Src = path.Base(c.Src)
			}
			what = c
		default:
			return Step{}, false, nil
		}
		for _, by := range []struct {
			who  *pb.UserOpt
			file string
		}{{owner.GetUser(), "/etc/passwd"}, {owner.GetGroup(), "/etc/group"}} {
			if n := by.who.GetByName(); n != nil && !read(n.Input, Selector{Path: by.file, FollowLinks: true}) {
				return Step{}, false, nil // names looked up in the result of another action
			}
		}
		b, err := json.Marshal(what)
		if err != nil {
			return Step{}, false, fmt.Errorf("name a step as BuildKit does: %w", err)
		}
		actions = append(actions, b)
		indexes = append(indexes, []int{int(a.Input), int(a.SecondaryInput), int(a.Output)})
	}
	if usual(indexes) {
		indexes = nil
	}
	d, err := identity(struct {
		Type    string
		Actions [][]byte
		Indexes [][]int `json:"indexes,omitempty"`
	}{"buildkit.file.v0", actions, indexes})
	if err != nil {
		return Step{}, false, err
	}
	s := Step{Digest: d, Inputs: make([]Input, inputs)}
	for i, list := range selectors {
		if len(list) == 0 || written[i] {
			continue
		}
		var paths [][]byte
		for _, p := range list {
			paths = append(paths, []byte(p.Path))
		}
		slices.SortFunc(paths, func(a, b []byte) int { return bytes.Compare(b, a) })
		s.Inputs[i] = Input{Selector: digest.FromBytes(bytes.Join(paths, []byte{0})), Content: distinct(list)}
	}
	return s, true, nil
}

// wild reports whether a path is a pattern.
func wild(p string) bool {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// usual reports whether each action goes on with what the one before it made, copies read
// the second input, and the last one makes the result.
func usual(indexes [][]int) bool {
	for i, idx := range indexes {
		from, out := 0, -1
		if i > 0 {
			from = len(indexes) + i - 1
		}
		if i == len(indexes)-1 {
			out = 0
		}
		if idx[0] != from || idx[1] != -1 && idx[1] != 1 || idx[2] != out {
			return false
		}
	}
	return len(indexes) > 0
}

// distinct leaves out paths beneath others and sorts what is left.
func distinct(list []Selector) []Selector {
	var plain, followed []string
	var out []Selector
	for _, s := range list {
		switch {
		case !s.plain():
		case s.FollowLinks:
			followed = append(followed, s.Path)
		default:
			plain = append(plain, s.Path)
		}
	}
	for _, p := range outermost(plain) {
		out = append(out, Selector{Path: p})
	}
	for _, p := range outermost(followed) {
		out = append(out, Selector{Path: p, FollowLinks: true})
	}
	for _, s := range list {
		if !s.plain() {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b Selector) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// Merge identifies a merge.
func Merge(op *pb.MergeOp, inputs int) (Step, error) {
	d, err := identity(struct {
		Type  string
		Merge *pb.MergeOp
	}{"buildkit.merge.v0", op})
	return Step{Digest: d, Inputs: make([]Input, inputs)}, err
}

// Diff identifies a diff.
func Diff(op *pb.DiffOp, inputs int) (Step, error) {
	d, err := identity(struct {
		Type string
		Diff *pb.DiffOp
	}{"buildkit.diff.v0", op})
	return Step{Digest: d, Inputs: make([]Input, inputs)}, err
}

// Passthrough identifies an operation that gives its inputs on.
func Passthrough(op *pb.PassthroughOp, inputs int) (Step, error) {
	d, err := identity(struct {
		Type        string
		Passthrough *pb.PassthroughOp
	}{"buildkit.passthrough.v0", op})
	return Step{Digest: d, Inputs: make([]Input, inputs)}, err
}
