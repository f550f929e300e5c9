package dockerfile

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

// lowerAll lowers the needed stages. All that a stage reads from stands before it.
func (b *build) lowerAll(target *stage) error {
	b.findHeirs(target)
	for _, s := range b.stages {
		if !s.needed || s.context != nil {
			continue
		}
		if err := b.begin(s); err != nil {
			return parser.WithLocation(err, s.at)
		}
		for _, st := range s.steps {
			s.inTrigger, s.current = st.trigger, st.At()
			if err := b.lower(s, st); err != nil {
				return parser.WithLocation(err, st.At().Ranges)
			}
		}
		for p := range s.contextRead {
			b.contextRead[p] = true
		}
	}
	return nil
}

// begin gives a stage what its base has.
func (b *build) begin(s *stage) error {
	if p := s.parent; p != nil {
		s.state = p.state
		s.platform = p.platform
		s.baseImage = p.baseImage
		s.read = p.read // what is read of this stage is read of its base
		s.workdirSet = p.workdirSet
		s.settled = p.settled
		if p.heir == s {
			s.inherit(p)
		} else {
			s.image, s.args = cloneConfig(p.image), slices.Clip(p.args)
		}
		s.image.Config.OnBuild = nil
	}
	s.resetConfig()
	conf := &s.image.Config
	if s.platform.OS != windows && !s.hasConfigEnv("PATH") {
		s.setConfigEnv("PATH", defaultPath)
		s.settled = false
	}
	s.startExports()
	if !s.settled {
		s.env.setAll(conf.Env)
		s.settled = true
	}
	if b.opts.hostname != "" {
		s.hostname = b.opts.hostname
	}
	if conf.WorkingDir != "" {
		dir := s.slashes(conf.WorkingDir)
		s.dir = join(dir, dir)
		conf.WorkingDir = s.native(s.dir)
	}
	if conf.User != "" {
		s.user = conf.User
	}
	s.network = b.opts.network
	return nil
}

// findHeirs lets the last stage that is built on another take over what that has.
func (b *build) findHeirs(target *stage) {
	for _, s := range b.stages {
		if p := s.parent; s.needed && s.context == nil && p != nil && p.context == nil && p != target {
			p.heir = s
		}
	}
}

// inherit takes over what p has without copying it. Nobody looks at p's any more, but for
// the args, of which p's are the first.
func (s *stage) inherit(p *stage) {
	img := *p.image
	s.image, s.args, s.declared, s.noted = &img, p.args, p.declared, p.noted
	if p.settled {
		s.configEnv = p.configEnv
	}
}

// lower applies one instruction to its stage.
func (b *build) lower(s *stage, st *step) error {
	switch in := st.Instruction.(type) {
	case *instruction.Run:
		return b.run(s, in, st.from)
	case *instruction.Copy:
		return b.copy(s, in, st.from)
	case *instruction.Add:
		return b.add(s, in)
	case *instruction.Workdir:
		return b.workdir(s, in)
	case *instruction.Env:
		return b.setEnv(s, in)
	case *instruction.Arg:
		return b.arg(s, in)
	case *instruction.Label:
		return b.label(s, in)
	case *instruction.Maintainer:
		return s.maintainer(in)
	case *instruction.User:
		return b.user(s, in)
	case *instruction.Shell:
		return s.setShell(in)
	case *instruction.Cmd:
		return b.cmd(s, in)
	case *instruction.Entrypoint:
		return b.entrypoint(s, in)
	case *instruction.Expose:
		return b.expose(s, in)
	case *instruction.Volume:
		return b.volume(s, in)
	case *instruction.StopSignal:
		return b.stopSignal(s, in)
	case *instruction.Healthcheck:
		return b.healthcheck(s, in)
	case *instruction.OnBuild:
		s.image.Config.OnBuild = append(s.image.Config.OnBuild, in.Trigger)
		return nil
	case *instruction.Export:
		return b.export(s, in)
	case *instruction.Import:
		return b.imports(s, in, st.from)
	}
	return fmt.Errorf("not implemented: %s", strings.ToUpper(st.At().Keyword))
}

// expand replaces the variables in a word, and takes away its quotes.
func (b *build) expand(s *stage, word string) (string, error) {
	if !strings.ContainsAny(word, "$'\"<"+string(b.file.Escape)) {
		return word, nil
	}
	v, unknown, err := b.lex.ProcessWord(word, &s.env)
	b.lintVars(s, unknown)
	return v, err
}

func (b *build) expandAll(s *stage, words []string) ([]string, error) {
	out := make([]string, len(words))
	for i, w := range words {
		var err error
		if out[i], err = b.expand(s, w); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// join is p seen from dir. An absolute path is left as it is.
func join(dir, p string) string {
	if p == "" {
		p = dir
	}
	if path.IsAbs(p) {
		return p
	}
	return path.Join("/", dir, p)
}
