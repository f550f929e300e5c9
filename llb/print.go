package llb

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/encoding/protojson"
)

// Print writes g as text for people: one paragraph for each operation, inputs before
// their readers, with small numbers in place of digests. Equal graphs print equally.
func Print(w io.Writer, g *Graph) error {
	p := &printer{number: map[*Vertex]int{}}
	for i, v := range g.Vertices {
		p.number[v] = i + 1
		p.vertex(v)
	}
	if g.Root.Vertex == nil {
		p.line("result scratch")
	} else {
		p.line("result %s", p.edge(g.Root))
	}
	_, err := io.WriteString(w, p.out.String())
	return err
}

type printer struct {
	out    strings.Builder
	number map[*Vertex]int
}

func (p *printer) line(format string, args ...any) { fmt.Fprintf(&p.out, format+"\n", args...) }

// edge is "2", or "2.1" for an output that is not the first.
func (p *printer) edge(e Edge) string {
	s := "%" + strconv.Itoa(p.number[e.Vertex])
	if e.Output > 0 {
		s += "." + strconv.Itoa(e.Output)
	}
	return s
}

func (p *printer) input(v *Vertex, i int64) string {
	if i < 0 || i >= int64(len(v.Inputs)) {
		return "scratch"
	}
	return p.edge(v.Inputs[i])
}

func (p *printer) vertex(v *Vertex) {
	head := fmt.Sprintf("%%%d = %s", p.number[v], kind(v.Op))
	if v.Op.Platform != nil {
		head += " platform=" + platform(v.Op.Platform)
	}
	if f := v.Op.Constraints.GetFilter(); len(f) > 0 {
		head += fmt.Sprintf(" where=%q", f)
	}
	p.line("%s", head)
	if n := v.Meta.GetDescription()["llb.customname"]; n != "" {
		p.line("  # %s", n)
	}
	if v.Meta.IgnoreCache {
		p.line("  no cache")
	}
	switch op := v.Op.Op.(type) {
	case *pb.Op_Source:
		p.line("  %s", op.Source.Identifier)
		p.attrs(op.Source.Attrs)
	case *pb.Op_Exec:
		p.exec(v, op.Exec)
	case *pb.Op_File:
		p.file(v, op.File)
	case *pb.Op_Merge:
		for _, in := range op.Merge.Inputs {
			p.line("  layer %s", p.input(v, in.Input))
		}
	case *pb.Op_Diff:
		p.line("  from %s to %s", p.input(v, op.Diff.Lower.Input), p.input(v, op.Diff.Upper.Input))
	case *pb.Op_Build:
		for _, key := range slices.Sorted(maps.Keys(op.Build.Inputs)) {
			p.line("  %s = %s", key, p.input(v, op.Build.Inputs[key].Input))
		}
		p.attrs(op.Build.Attrs)
	case *pb.Op_Passthrough:
		for _, in := range op.Passthrough.Outputs {
			p.line("  output %s", p.input(v, in))
		}
	}
}

func (p *printer) attrs(m map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		p.line("  %s = %q", key, m[key])
	}
}

func (p *printer) exec(v *Vertex, op *pb.ExecOp) {
	p.line("  run %s", quoteAll(op.Meta.Args))
	for _, e := range op.Meta.Env {
		p.line("  env %s", quote(e))
	}
	for _, f := range []struct{ name, value string }{
		{"cwd", op.Meta.Cwd}, {"user", op.Meta.User}, {"hostname", op.Meta.Hostname}, {"cgroup", op.Meta.CgroupParent},
	} {
		if f.value != "" {
			p.line("  %s %s", f.name, quote(f.value))
		}
	}
	if op.Network != pb.NetMode_UNSET {
		p.line("  network %s", strings.ToLower(op.Network.String()))
	}
	if op.Security != pb.SecurityMode_SANDBOX {
		p.line("  security %s", strings.ToLower(op.Security.String()))
	}
	if op.Meta.ProxyEnv != nil {
		p.line("  proxy")
	}
	for _, h := range op.Meta.ExtraHosts {
		p.line("  host %s %s", quote(h.Host), quote(h.IP))
	}
	for _, u := range op.Meta.Ulimit {
		p.line("  ulimit %s=%d:%d", quote(u.Name), u.Soft, u.Hard)
	}
	if len(op.Meta.ValidExitCodes) > 0 {
		p.line("  exit codes %v", op.Meta.ValidExitCodes)
	}
	for _, s := range op.Secretenv {
		p.line("  secret %s as $%s%s", quote(s.ID), s.Name, flag(s.Optional, "optional"))
	}
	for _, d := range op.CdiDevices {
		p.line("  device %s%s", quote(d.Name), flag(d.Optional, "optional"))
	}
	for _, m := range op.Mounts {
		p.mount(v, m)
	}
}

func (p *printer) mount(v *Vertex, m *pb.Mount) {
	s := fmt.Sprintf("  mount %s %s", quote(m.Dest), strings.ToLower(m.MountType.String()))
	switch m.MountType {
	case pb.MountType_SECRET:
		o := m.SecretOpt
		s += fmt.Sprintf(" id=%s mode=%#o owner=%d:%d%s", quote(o.ID), o.Mode, o.Uid, o.Gid, flag(o.Optional, "optional"))
	case pb.MountType_SSH:
		o := m.SSHOpt
		s += fmt.Sprintf(" id=%s mode=%#o owner=%d:%d%s", quote(o.ID), o.Mode, o.Uid, o.Gid, flag(o.Optional, "optional"))
	case pb.MountType_TMPFS:
		if n := m.TmpfsOpt.GetSize(); n > 0 {
			s += fmt.Sprintf(" size=%d", n)
		}
	default:
		s += " " + p.input(v, m.Input)
		if m.Selector != "" {
			s += " path=" + quote(m.Selector)
		}
		if m.MountType == pb.MountType_CACHE {
			s += fmt.Sprintf(" id=%s sharing=%s", quote(m.CacheOpt.ID), strings.ToLower(m.CacheOpt.Sharing.String()))
		} else if m.Output >= 0 {
			s += fmt.Sprintf(" output=%d", m.Output)
		}
		if m.ContentCache != pb.MountContentCache_DEFAULT {
			s += " content-cache=" + strings.ToLower(m.ContentCache.String())
		}
		s += flag(m.Readonly, "readonly")
	}
	p.line("%s", s)
}

func (p *printer) file(v *Vertex, op *pb.FileOp) {
	// place names what an action reads: an input, or "^n" for the result of action n.
	place := func(i int64) string {
		if n := i - int64(len(v.Inputs)); n >= 0 {
			return "^" + strconv.FormatInt(n, 10)
		}
		return p.input(v, i)
	}
	for i, a := range op.Actions {
		s := fmt.Sprintf("  %d: ", i)
		var owner *pb.ChownOpt
		stamp := int64(-1)
		switch k := a.Action.(type) {
		case *pb.FileAction_Copy:
			c := k.Copy
			s += fmt.Sprintf("copy %s %s to %s", place(a.SecondaryInput), quote(c.Src), quote(c.Dest))
			if c.ModeStr != "" {
				s += " mode=" + c.ModeStr
			} else if c.Mode >= 0 {
				s += fmt.Sprintf(" mode=%#o", c.Mode)
			}
			s += flag(c.FollowSymlink, "follow") + flag(c.DirCopyContents, "contents") + flag(c.AttemptUnpackDockerCompatibility, "unpack") +
				flag(c.CreateDestPath, "parents") + flag(c.AllowWildcard, "wildcard") + flag(c.AllowEmptyWildcard, "may-be-empty") +
				flag(c.AlwaysReplaceExistingDestPaths, "replace")
			for _, l := range []struct {
				name   string
				values []string
			}{{"include", c.IncludePatterns}, {"exclude", c.ExcludePatterns}, {"require", c.RequiredPaths}} {
				if len(l.values) > 0 {
					s += fmt.Sprintf(" %s=%q", l.name, l.values)
				}
			}
			owner, stamp = c.Owner, c.Timestamp
		case *pb.FileAction_Mkfile:
			s += fmt.Sprintf("mkfile %s mode=%#o", quote(k.Mkfile.Path), k.Mkfile.Mode)
			if d := k.Mkfile.Data; len(d) <= 256 {
				s += fmt.Sprintf(" data=%q", d)
			} else {
				s += fmt.Sprintf(" data=%q... (%d bytes)", d[:256], len(d))
			}
			owner, stamp = k.Mkfile.Owner, k.Mkfile.Timestamp
		case *pb.FileAction_Mkdir:
			s += fmt.Sprintf("mkdir %s mode=%#o%s", quote(k.Mkdir.Path), k.Mkdir.Mode, flag(k.Mkdir.MakeParents, "parents"))
			owner, stamp = k.Mkdir.Owner, k.Mkdir.Timestamp
		case *pb.FileAction_Symlink:
			s += fmt.Sprintf("symlink %s to %s", quote(k.Symlink.Newpath), quote(k.Symlink.Oldpath))
			owner, stamp = k.Symlink.Owner, k.Symlink.Timestamp
		case *pb.FileAction_Rm:
			s += fmt.Sprintf("rm %s%s%s", quote(k.Rm.Path), flag(k.Rm.AllowNotFound, "may-be-missing"), flag(k.Rm.AllowWildcard, "wildcard"))
		}
		if u := user(owner.GetUser()); u != "" {
			s += " user=" + u
		}
		if u := user(owner.GetGroup()); u != "" {
			s += " group=" + u
		}
		if stamp != -1 {
			s += fmt.Sprintf(" time=%d", stamp)
		}
		s += " on " + place(a.Input)
		if a.Output >= 0 {
			s += fmt.Sprintf(" output=%d", a.Output)
		}
		p.line("%s", s)
	}
}

// JSON writes g as one JSON object for each operation, one a line, inputs first, and
// last an object with the key "result".
func JSON(w io.Writer, g *Graph) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, v := range g.Vertices {
		op, err := protojson.Marshal(v.Op)
		if err != nil {
			return fmt.Errorf("print %s: %w", name(v), err)
		}
		meta, err := protojson.Marshal(v.Meta)
		if err != nil {
			return fmt.Errorf("print %s: %w", name(v), err)
		}
		err = enc.Encode(struct {
			Digest string          `json:"digest"`
			Op     json.RawMessage `json:"op"`
			Meta   json.RawMessage `json:"metadata,omitempty"`
		}{string(v.Digest), op, meta})
		if err != nil {
			return err
		}
	}
	type result struct {
		Digest string `json:"digest"`
		Output int    `json:"output"`
	}
	var r *result
	if g.Root.Vertex != nil {
		r = &result{string(g.Root.Vertex.Digest), g.Root.Output}
	}
	return enc.Encode(struct {
		Result *result `json:"result"`
	}{r})
}

// Dot writes g in the language of graphviz.
func Dot(w io.Writer, g *Graph) error {
	var b strings.Builder
	b.WriteString("digraph llb {\n\trankdir=LR;\n\tnode [shape=box];\n")
	number := map[*Vertex]int{}
	for i, v := range g.Vertices {
		number[v] = i + 1
		label := v.Meta.GetDescription()["llb.customname"]
		if label == "" {
			label = Describe(v.Op)
		}
		fmt.Fprintf(&b, "\tn%d [label=%s];\n", i+1, strconv.Quote(label))
		for j, in := range v.Inputs {
			fmt.Fprintf(&b, "\tn%d -> n%d [label=%s];\n", number[in.Vertex], i+1, strconv.Quote(strconv.Itoa(j)))
		}
	}
	if g.Root.Vertex != nil {
		fmt.Fprintf(&b, "\tresult [shape=oval];\n\tn%d -> result;\n", number[g.Root.Vertex])
	}
	b.WriteString("}\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// Describe says in a few words what a checked op does.
func Describe(op *pb.Op) string {
	switch k := op.Op.(type) {
	case *pb.Op_Source:
		return k.Source.Identifier
	case *pb.Op_Exec:
		return strings.Join(k.Exec.Meta.Args, " ")
	case *pb.Op_File:
		var all []string
		for _, a := range k.File.Actions {
			switch a := a.Action.(type) {
			case *pb.FileAction_Copy:
				all = append(all, "copy "+a.Copy.Src+" "+a.Copy.Dest)
			case *pb.FileAction_Mkfile:
				all = append(all, "mkfile "+a.Mkfile.Path)
			case *pb.FileAction_Mkdir:
				all = append(all, "mkdir "+a.Mkdir.Path)
			case *pb.FileAction_Symlink:
				all = append(all, "symlink "+a.Symlink.Newpath)
			case *pb.FileAction_Rm:
				all = append(all, "rm "+a.Rm.Path)
			}
		}
		return strings.Join(all, ", ")
	}
	return kind(op)
}

func kind(op *pb.Op) string {
	switch op.Op.(type) {
	case *pb.Op_Source:
		return "source"
	case *pb.Op_Exec:
		return "exec"
	case *pb.Op_File:
		return "file"
	case *pb.Op_Build:
		return "build"
	case *pb.Op_Merge:
		return "merge"
	case *pb.Op_Diff:
		return "diff"
	case *pb.Op_Passthrough:
		return "passthrough"
	}
	return "unknown"
}

func platform(p *pb.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	if p.OSVersion != "" {
		s += "(" + p.OSVersion + ")"
	}
	return s
}

func user(u *pb.UserOpt) string {
	switch k := u.GetUser().(type) {
	case *pb.UserOpt_ByName:
		return quote(k.ByName.Name)
	case *pb.UserOpt_ByID:
		return strconv.FormatUint(uint64(k.ByID), 10)
	}
	return ""
}

func flag(on bool, s string) string {
	if on {
		return " " + s
	}
	return ""
}

// quote leaves alone what reads well without quotes.
func quote(s string) string {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '"' || r == '\\' || r > '~' }) {
		return strconv.Quote(s)
	}
	return s
}

func quoteAll(list []string) string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = quote(s)
	}
	return strings.Join(out, " ")
}
