package explain

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// An Outcome is what the solver knows of a step.
type Outcome struct {
	Name             string
	State            State
	NoCache, Stamped bool
	Spec, Key, Pin   string
	Slots            []string
	Layers           []string
	Local            int           // see Step
	Took             time.Duration // by the run that made it; 0 if there was none
}

// A Taker makes a Trace of graphs. The zero Taker is ready.
type Taker struct {
	Trace Trace
	index map[digest.Digest]int
	files map[string]int
}

// Graph adds the steps of g, those that outcome knows.
func (t *Taker) Graph(g *llb.Graph, outcome func(digest.Digest) (Outcome, bool)) {
	if t.index == nil {
		t.index, t.files = map[digest.Digest]int{}, map[string]int{}
	}
	files := make([]int, len(g.Sources))
	for i := range files {
		files[i] = -1
	}
	for _, v := range g.Vertices {
		if _, ok := t.index[v.Digest]; ok || len(t.Trace.Steps) >= maxSteps {
			continue
		}
		o, ok := outcome(v.Digest)
		if !ok || !t.has(v.Inputs) {
			continue
		}
		s := Step{
			Digest: v.Digest.Encoded(), Name: o.Name, State: o.State, NoCache: o.NoCache, Stamped: o.Stamped,
			Spec: o.Spec, Key: o.Key, Pin: attest.Redact(o.Pin), Layers: o.Layers, Local: o.Local,
		}
		if o.Took > 0 {
			s.Time = max(1, o.Took.Milliseconds())
		}
		s.Kind, s.Facts = facts(v)
		for i, in := range v.Inputs {
			input := Input{Step: t.index[in.Vertex.Digest], Output: in.Output, Parts: parts(v.Op, i)}
			if i < len(o.Slots) {
				input.Slot = o.Slots[i]
			}
			s.Inputs = append(s.Inputs, input)
		}
		for _, l := range v.Locations {
			i := int(l.SourceIndex)
			if len(l.Ranges) == 0 || i < 0 || i >= len(files) {
				continue
			}
			if files[i] < 0 {
				files[i] = t.file(g.Sources[i])
			}
			s.Place = &Place{File: files[i], Start: int(l.Ranges[0].GetStart().GetLine()), End: int(l.Ranges[len(l.Ranges)-1].GetEnd().GetLine())}
			break
		}
		t.index[v.Digest] = len(t.Trace.Steps)
		t.Trace.Steps = append(t.Trace.Steps, s)
	}
}

func (t *Taker) has(inputs []llb.Edge) bool {
	return !slices.ContainsFunc(inputs, func(e llb.Edge) bool {
		_, ok := t.index[e.Vertex.Digest]
		return !ok
	})
}

// file returns the index of a file in the trace.
func (t *Taker) file(src *pb.SourceInfo) int {
	text := NewText(src.GetFilename(), src.GetData())
	if i, ok := t.files[text.Name+"\x00"+text.Text]; ok {
		return i
	}
	i := len(t.Trace.Files)
	t.files[text.Name+"\x00"+text.Text] = i
	t.Trace.Files = append(t.Trace.Files, text)
	return i
}

// NewText is a Text of bounded size.
func NewText(name string, data []byte) Text {
	return Text{Name: name, Text: attest.Redact(string(data[:min(len(data), maxText)]))}
}

// value is how a value is kept: a long one as its beginning and a digest.
func value(s string) string {
	s = attest.Redact(s)
	if len(s) <= maxValue {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return strings.ToValidUTF8(s[:maxValue/2], "") + "... (" + hex.EncodeToString(sum[:6]) + ")"
}

// Args picks the build arguments from the options of a frontend.
func Args(attrs map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range attrs {
		if name, ok := strings.CutPrefix(k, "build-arg:"); ok {
			out[name] = value(v)
		}
	}
	return out
}

// Kinds of facts.
const (
	factCommand  = "command"
	factEnv      = "env"
	factSource   = "source"
	factAttr     = "attr"
	factPlatform = "platform"
	factAction   = "action"
	factMount    = "mount"
	factSecret   = "secret"
	factSSH      = "ssh"
	factOption   = "option"
)

// facts are what an operation consists of, apart from its inputs.
func facts(v *llb.Vertex) (kind string, list []Fact) {
	add := func(kind, name, val string) { list = append(list, Fact{kind, name, value(val)}) }
	if p := v.Op.Platform; p != nil && v.Op.GetFile() == nil {
		add(factPlatform, "", platforms.FormatAll(p.Spec()))
	}
	switch op := v.Op.Op.(type) {
	case *pb.Op_Source:
		kind = "source"
		add(factSource, "", op.Source.Identifier)
		for _, k := range sortedKeys(op.Source.Attrs) {
			switch k {
			case pb.AttrLocalSessionID, pb.AttrLocalUniqueID, pb.AttrOCILayoutSessionID, pb.AttrSharedKeyHint:
				continue // new with each build, or of no account
			}
			add(factAttr, k, op.Source.Attrs[k])
		}
	case *pb.Op_Exec:
		kind = "exec"
		execFacts(op.Exec, add)
	case *pb.Op_File:
		kind = "file"
		for i, a := range op.File.Actions {
			add(factAction, strconv.Itoa(i), action(a))
		}
	case *pb.Op_Merge:
		kind = "merge"
	case *pb.Op_Diff:
		kind = "diff"
	case *pb.Op_Build:
		kind = "build"
	case *pb.Op_Passthrough:
		kind = "passthrough"
	}
	return kind, list
}

func execFacts(e *pb.ExecOp, add func(kind, name, val string)) {
	m := e.Meta
	add(factCommand, "", command(m.GetArgs()))
	for _, kv := range m.GetEnv() {
		k, v, _ := strings.Cut(kv, "=")
		add(factEnv, k, v)
	}
	option := func(name, val string) {
		if val != "" {
			add(factOption, name, val)
		}
	}
	option("the working directory", m.GetCwd())
	option("the user", m.GetUser())
	option("the hostname", m.GetHostname())
	option("the cgroup parent", m.GetCgroupParent())
	if e.Network != pb.NetMode_UNSET {
		option("the network", strings.ToLower(e.Network.String()))
	}
	if e.Security != pb.SecurityMode_SANDBOX {
		option("the security mode", strings.ToLower(e.Security.String()))
	}
	for _, h := range m.GetExtraHosts() {
		option("the extra host "+h.Host, h.IP)
	}
	for _, u := range m.GetUlimit() {
		option("the limit "+u.Name, fmt.Sprintf("%d:%d", u.Soft, u.Hard))
	}
	if len(m.GetValidExitCodes()) > 0 {
		option("the accepted exit codes", fmt.Sprint(m.ValidExitCodes))
	}
	for _, d := range e.CdiDevices {
		option("the device "+d.Name, fmt.Sprintf("optional=%v", d.Optional))
	}
	for _, s := range e.Secretenv {
		add(factSecret, s.ID, "env="+s.Name+optional(s.Optional))
	}
	for _, mt := range e.Mounts {
		switch mt.MountType {
		case pb.MountType_SECRET:
			add(factSecret, mt.SecretOpt.GetID(), fmt.Sprintf("target=%s mode=%04o uid=%d gid=%d%s", mt.Dest, mt.SecretOpt.GetMode(), mt.SecretOpt.GetUid(), mt.SecretOpt.GetGid(), optional(mt.SecretOpt.GetOptional())))
		case pb.MountType_SSH:
			add(factSSH, mt.SSHOpt.GetID(), fmt.Sprintf("target=%s mode=%04o uid=%d gid=%d%s", mt.Dest, mt.SSHOpt.GetMode(), mt.SSHOpt.GetUid(), mt.SSHOpt.GetGid(), optional(mt.SSHOpt.GetOptional())))
		default:
			if mt.Dest != pb.RootMount || mt.Readonly || mt.Selector != "" {
				add(factMount, mt.Dest, mount(mt))
			}
		}
	}
}

func optional(yes bool) string {
	if yes {
		return " optional"
	}
	return ""
}

// mount is a mount as its options would say.
func mount(m *pb.Mount) string {
	var out []string
	switch m.MountType {
	case pb.MountType_CACHE:
		out = append(out, "type=cache", "id="+m.CacheOpt.GetID(), "sharing="+strings.ToLower(m.CacheOpt.GetSharing().String()))
	case pb.MountType_TMPFS:
		out = append(out, "type=tmpfs")
		if n := m.TmpfsOpt.GetSize(); n > 0 {
			out = append(out, fmt.Sprintf("size=%d", n))
		}
	default:
		out = append(out, "type=bind")
	}
	if m.Selector != "" {
		out = append(out, "source="+m.Selector)
	}
	if m.Readonly {
		out = append(out, "ro")
	} else {
		out = append(out, "rw")
	}
	return strings.Join(out, ",")
}

// command is what a process is told, as its author wrote it.
func command(args []string) string {
	if len(args) == 3 && args[0] == "/bin/sh" && args[1] == "-c" {
		return args[2]
	}
	return strings.Join(args, " ")
}

// action is a file action in a line.
func action(a *pb.FileAction) string {
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	sum := func(b []byte) string { return digest.FromBytes(b).Encoded()[:12] }
	var owner *pb.ChownOpt
	switch a := a.Action.(type) {
	case *pb.FileAction_Copy:
		c := a.Copy
		say("copy %s %s", c.Src, c.Dest)
		owner = c.Owner
		if c.Mode >= 0 {
			say("mode=%04o", c.Mode)
		}
		if c.ModeStr != "" {
			say("mode=%s", c.ModeStr)
		}
		if c.Timestamp >= 0 {
			say("time=%d", c.Timestamp)
		}
		if len(c.IncludePatterns) > 0 {
			say("include=%s", strings.Join(c.IncludePatterns, ","))
		}
		if len(c.ExcludePatterns) > 0 {
			say("exclude=%s", strings.Join(c.ExcludePatterns, ","))
		}
		for name, on := range map[string]bool{
			"unpack": c.AttemptUnpackDockerCompatibility, "parents": len(c.RequiredPaths) > 0,
		} {
			if on {
				say("%s", name)
			}
		}
	case *pb.FileAction_Mkfile:
		say("file %s mode=%04o content=%s", a.Mkfile.Path, a.Mkfile.Mode, sum(a.Mkfile.Data))
		owner = a.Mkfile.Owner
	case *pb.FileAction_Mkdir:
		say("directory %s mode=%04o", a.Mkdir.Path, a.Mkdir.Mode)
		owner = a.Mkdir.Owner
	case *pb.FileAction_Rm:
		say("remove %s", a.Rm.Path)
	case *pb.FileAction_Symlink:
		say("link %s %s", a.Symlink.Oldpath, a.Symlink.Newpath)
		owner = a.Symlink.Owner
	}
	if owner != nil {
		say("owner=%s:%s", user(owner.User), user(owner.Group))
	}
	return strings.Join(out, " ")
}

func user(u *pb.UserOpt) string {
	if n := u.GetByName(); n != nil {
		return n.Name
	}
	return strconv.Itoa(int(u.GetByID()))
}

// parts are what an operation reads of input i by content.
func parts(op *pb.Op, i int) (list []Part) {
	switch op := op.Op.(type) {
	case *pb.Op_File:
		for _, a := range op.File.Actions {
			if int(a.Input) == i {
				return nil
			}
			if c := a.GetCopy(); c != nil && int(a.SecondaryInput) == i {
				list = append(list, Part{Path: c.Src, Wildcard: c.AllowWildcard, Include: c.IncludePatterns, Exclude: c.ExcludePatterns})
			}
		}
	case *pb.Op_Exec:
		for _, m := range op.Exec.Mounts {
			if m.MountType != pb.MountType_BIND || int(m.Input) != i {
				continue
			}
			if m.Dest == pb.RootMount || m.Output >= 0 {
				return nil
			}
			list = append(list, Part{Path: m.Selector})
		}
	}
	return list
}
