package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/solver/pb"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/llb"
)

// pipes is where the script of a RUN heredoc is mounted.
const pipes = "/dev/pipes/"

func (b *build) run(s *stage, in *instruction.Run, from []*stage) error {
	if s.platform.OS == windows {
		return errors.New("not implemented: RUN for Windows")
	}
	s.read.add("/") // a command may read anything
	e := &exec{ExecOptions: llb.ExecOptions{
		Cwd: s.dir, User: s.user, Env: s.env.list(), EnvIsUnique: !s.env.odd, Hostname: s.hostname,
		CgroupParent: b.opts.cgroup, Network: s.network, Proxy: b.proxy,
		ExtraHosts: b.opts.hosts, Ulimits: b.opts.ulimits, Platform: s.state.platform,
	}, root: s.out}
	line, shown := b.script(s, in, e)
	e.Args = s.withShell(line)

	secrets := map[string]bool{}
	described := command(in.Source)
	b.limit(in, described)
	for i, text := range in.Mounts {
		m, err := instruction.ParseMount(text, func(word string) (string, error) { return b.expand(s, word) })
		if err != nil {
			return err
		}
		if m.Type == instruction.Secret && m.Env != nil {
			secrets[secretEnv(m)] = true
		}
		if err := b.mount(s, e, m, from[i]); err != nil {
			return err
		}
		if m.Type == instruction.Bind && m.Source != "" {
			b.reads("RUN", from[i], m.Source).Describe(described, e.mounts[len(e.mounts)-1].Target)
		}
	}
	if in.Security == "insecure" {
		e.Security = pb.SecurityMode_INSECURE
	}
	switch in.Network {
	case "none":
		e.Network = pb.NetMode_NONE
	case "host":
		e.Network = pb.NetMode_HOST
	}
	for _, d := range in.Devices {
		e.Devices = append(e.Devices, &pb.CDIDevice{Name: d.Name, Optional: !d.Required})
	}
	if b.opts.shmSize > 0 {
		e.mounts = append(e.mounts, mount{Mount: llb.Mount{
			Target: "/dev/shm", Tmpfs: true, TmpfsSize: b.opts.shmSize,
		}})
	}
	var vars shell.EnvGetter = &s.env
	if len(secrets) > 0 {
		vars = masked{&s.env, secrets}
	}
	platform := s.state.platform
	meta := b.meta(s, in.Pos, b.stepName(s, shown, b.nameLex, vars, platform))
	meta.Description = described
	meta.Resources = b.opts.resources
	in.Fresh.Apply(&e.ExecOptions, &meta, b.opts.now)
	s.out = execOp(e, meta)
	s.commit("RUN "+s.shownArgs()+strings.Join(e.Args, " ")+" # buildkit", true)
	return nil
}

// shownArgs is how history shows the build args that a command could see.
func (s *stage) shownArgs() string {
	index := map[string]int{}
	var list []string
	for _, a := range s.args {
		v, ok := s.env.Get(a.key)
		if !ok && a.value != nil {
			v = *a.value
		}
		kv := a.key + "=" + v
		if i, ok := index[a.key]; ok {
			list[i] = kv
			continue
		}
		index[a.key] = len(list)
		list = append(list, kv)
	}
	if len(list) == 0 {
		return ""
	}
	return "|" + strconv.Itoa(len(list)) + " " + strings.Join(list, " ") + " "
}

// script is the command line with its heredocs: one alone is the script, and if it
// begins with "#!" a file to be executed; more, or one behind a command, are for the
// shell.
func (b *build) script(s *stage, in *instruction.Run, e *exec) (line instruction.CommandLine, shown string) {
	line, shown = in.CommandLine, in.Source
	if len(in.Heredocs) == 0 {
		return line, shown
	}
	if parser.MustParseHeredoc(line.Args[0]) == nil {
		var text strings.Builder
		text.WriteString(line.Args[0])
		for _, h := range in.Heredocs {
			text.WriteString("\n" + h.Data + h.Name)
		}
		line.Args = []string{text.String()}
		return line, shown
	}
	doc := in.Heredocs[0]
	data := doc.Data
	if doc.Chomp {
		data = parser.ChompHeredocContent(data)
	}
	first, rest, _ := strings.Cut(strings.TrimSpace(doc.Data), "\n")
	if first = strings.TrimSuffix(first, "\r"); rest != "" {
		first += "..."
	}
	shown += " (" + first + ")"
	line.Args = []string{data}
	if strings.HasPrefix(data, "#!") {
		e.mounts = append(e.mounts, mount{from: b.inline(doc.Name, 0o755, data), Mount: llb.Mount{
			Target: pipes, Selector: "/", Readonly: true,
		}})
		line.Args = []string{path.Join(pipes, doc.Name)}
	}
	return line, shown
}

// inline is a filesystem with one file.
func (b *build) inline(name string, mode uint32, data string) output {
	return fileOp(output{}, llb.Meta{Name: "[internal] preparing inline document"},
		action{other: llb.Mkfile{Path: path.Join("/", name), Mode: mode, Data: []byte(data)}})
}

func (b *build) mount(s *stage, e *exec, m *instruction.Mount, from *stage) error {
	switch m.Type {
	case instruction.Secret:
		sec := secretOf(m)
		e.Secrets = append(e.Secrets, sec)
		s.mounted = append(s.mounted, mounted{m.Type, sec.ID, m.Required, s.current.Ranges})
		return nil
	case instruction.SSH:
		mode, id := modeOf(m, 0o600), m.ID
		if id == "" {
			id = "default"
		}
		s.mounted = append(s.mounted, mounted{m.Type, id, m.Required, s.current.Ranges})
		e.SSH = append(e.SSH, llb.SSH{
			ID: m.ID, Target: m.Target, UID: value(m.UID), GID: value(m.GID), Mode: mode, Optional: !m.Required,
		})
		return nil
	}
	out := mount{Mount: llb.Mount{Target: m.Target, Readonly: m.ReadOnly}}
	switch {
	case m.Type == instruction.Tmpfs:
		out.Tmpfs, out.TmpfsSize = true, m.Size
	case from != nil:
		out.from = from.out
	case m.Type == instruction.Bind:
		out.from = b.context
	}
	switch m.Type {
	case instruction.Bind:
		out.NoOutput = !m.ReadOnly
	case instruction.Cache:
		id := m.ID
		if id == "" {
			id = path.Clean(m.Target)
		}
		out.CacheID = b.opts.cacheSpace + "/" + id
		s.mounted = append(s.mounted, mounted{m.Type, id, false, s.current.Ranges})
		switch m.Sharing {
		case "private":
			out.Sharing = pb.CacheSharingOpt_PRIVATE
		case "locked":
			out.Sharing = pb.CacheSharingOpt_LOCKED
		}
	}
	if !path.IsAbs(m.Target) {
		out.Target = path.Join("/", s.dir, m.Target)
	}
	if out.Target == "/" {
		return fmt.Errorf("invalid mount target %q", out.Target)
	}
	if src := path.Join("/", m.Source); src != "/" {
		out.Selector = src
	} else if m.UID != nil || m.GID != nil || m.Mode != nil {
		out.from = fileOp(out.from, llb.Meta{Name: "[internal] setting cache mount permissions"}, action{other: llb.Mkdir{
			Path: "/cache", Mode: modeOf(m, 0o755), Owner: llb.IDs(value(m.UID), value(m.GID)),
		}})
		out.Selector = "/cache"
	}
	e.mounts = append(e.mounts, out)
	switch {
	case from != nil:
		from.read.add(m.Source)
	case m.Type == instruction.Bind:
		s.contextRead.add(m.Source)
	case m.Type == instruction.Tmpfs:
		// BuildKit reads all of the context for it; nothing of it can be seen.
	}
	return nil
}

func secretOf(m *instruction.Mount) llb.Secret {
	id := m.ID
	if m.Source != "" {
		id = m.Source
	}
	if id == "" {
		id = path.Base(m.Target)
	}
	sec := llb.Secret{
		ID: id, Target: m.Target, Optional: !m.Required,
		UID: value(m.UID), GID: value(m.GID), Mode: modeOf(m, 0o400),
	}
	if m.Env != nil {
		sec.Env = secretEnv(m)
	} else if sec.Target == "" {
		sec.Target = "/run/secrets/" + path.Base(id)
	}
	return sec
}

// secretEnv is the variable that holds a secret.
func secretEnv(m *instruction.Mount) string {
	if *m.Env != "" {
		return *m.Env
	}
	if m.Source != "" {
		return m.Source
	}
	if m.ID != "" {
		return m.ID
	}
	return path.Base(m.Target)
}

func value(p *uint32) uint32 {
	if p == nil {
		return 0
	}
	return *p
}

func modeOf(m *instruction.Mount, otherwise uint32) uint32 {
	if m.Mode == nil {
		return otherwise
	}
	return *m.Mode
}
