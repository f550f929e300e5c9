package buildkit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

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
