package dockerfile

import (
	"path"
	"strings"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/llb"
)

// workdir sets the working directory and makes it, for the stage's user.
func (b *build) workdir(s *stage, in *instruction.Workdir) error {
	p, err := b.expand(s, in.Path)
	if err != nil {
		return err
	}
	if !s.workdirSet && !path.IsAbs(p) {
		b.lint.report(workdirRelativePath, in.Pos, p)
	}
	s.workdirSet = true
	dir := join(s.slashes(s.image.Config.WorkingDir), s.slashes(p))
	if s.platform.OS == windows {
		dir = path.Clean(dir)
	}
	s.dir, s.image.Config.WorkingDir = dir, s.native(dir)
	if dir == "/" {
		s.commit("WORKDIR /", false)
		return nil
	}
	meta := b.meta(s, in.Pos, b.stepName(s, in.Source, b.lex, &s.env, s.platform))
	meta.IgnoreCache = false
	s.out = fileOp(s.out, meta, action{other: llb.Mkdir{
		Path: path.Clean(dir), Mode: 0o755, Parents: true, Owner: owner(s.user), Created: s.epoch,
	}})
	s.commit("WORKDIR "+dir, true)
	return nil
}

// slashes is a path as operations have it: on Windows there are backslashes and a drive.
func (s *stage) slashes(p string) string {
	if s.platform.OS != windows {
		return p
	}
	if len(p) > 1 && strings.EqualFold(p[:2], "c:") {
		p = p[2:]
	}
	return strings.ReplaceAll(p, `\`, "/")
}

// native is a path as the platform writes it.
func (s *stage) native(p string) string {
	if s.platform.OS != windows {
		return p
	}
	return strings.ReplaceAll(p, "/", `\`)
}
