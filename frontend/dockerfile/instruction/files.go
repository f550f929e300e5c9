package instruction

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

var stageName = regexp.MustCompile(`^[a-z][a-z0-9-_.]*$`)

func parseFrom(r *request) (Instruction, error) {
	platform, reset := &flag{name: "platform"}, &flag{name: "reset", kind: optional}
	if err := r.parseFlags([]*flag{platform}, reset); err != nil {
		return nil, err
	}
	in := &From{Pos: r.Pos, Platform: platform.value}
	if reset.set {
		var err error
		if in.Reset, err = parseReset(reset.value); err != nil {
			return nil, err
		}
	}
	switch {
	case len(r.args) == 3 && strings.EqualFold(r.args[1], "as"):
		in.As, in.Written, in.Name = r.args[1], r.args[2], strings.ToLower(r.args[2])
		if !stageName.MatchString(in.Name) {
			return nil, fmt.Errorf("invalid name for build stage: %q, a name must begin with a letter and hold only letters, digits, '-', '_' and '.'", r.args[2])
		}
		in.Doc = r.doc(in.Name)
	case len(r.args) != 1:
		return nil, errors.New("FROM requires either one or three arguments")
	}
	in.Base = r.args[0]
	return in, nil
}

// transfer reads the operands of COPY and ADD.
func (r *request) transfer() (t Transfer, err error) {
	if len(r.args) < 2 {
		return t, fmt.Errorf("%s requires at least two arguments, but only one was provided: a source and a destination", r.name)
	}
	t.Dest = r.args[len(r.args)-1]
	if parser.MustParseHeredoc(t.Dest) != nil {
		return t, fmt.Errorf("%s cannot accept a heredoc as a destination", r.name)
	}
	for _, src := range r.args[:len(r.args)-1] {
		h := parser.MustParseHeredoc(src)
		if h == nil {
			t.Sources = append(t.Sources, src)
			continue
		}
		doc := Heredoc{Name: h.Name, Expand: h.Expand, Chomp: h.Chomp}
		for _, body := range r.heredocs {
			if body.Name == h.Name {
				doc.Data = body.Content // the last of that name
			}
		}
		if doc.Chomp {
			doc.Data = parser.ChompHeredocContent(doc.Data)
		}
		t.Documents = append(t.Documents, doc)
	}
	return t, nil
}

func parseCopy(r *request) (Instruction, error) {
	from, chown, chmod := &flag{name: "from"}, &flag{name: "chown"}, &flag{name: "chmod"}
	link, parents := &flag{name: "link", kind: boolean}, &flag{name: "parents", kind: boolean}
	exclude := &flag{name: "exclude", kind: repeated}
	t, err := r.transfer()
	if err != nil {
		return nil, err
	}
	ifExists, when := &flag{name: "if-exists", kind: boolean}, &flag{name: "when"}
	if err := r.parseFlags([]*flag{chown, from, chmod, link, exclude, parents}, ifExists, when); err != nil {
		return nil, err
	}
	if err := r.optional(&t, ifExists, when); err != nil {
		return nil, err
	}
	t.Chown, t.Chmod, t.Link, t.Exclude = chown.value, chmod.value, link.on, exclude.values
	if hasVariable(from.value) && r.dialect == Plain {
		return nil, errors.New("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround; \"# dbuild=1\" at the head of the Dockerfile turns it on")
	}
	return &Copy{Pos: r.Pos, Transfer: t, From: from.value, Parents: parents.on}, nil
}

func parseAdd(r *request) (Instruction, error) {
	chown, chmod, checksum := &flag{name: "chown"}, &flag{name: "chmod"}, &flag{name: "checksum"}
	link, keep := &flag{name: "link", kind: boolean}, &flag{name: "keep-git-dir", kind: boolean}
	unpack, exclude := &flag{name: "unpack", kind: boolean}, &flag{name: "exclude", kind: repeated}
	t, err := r.transfer()
	if err != nil {
		return nil, err
	}
	ifExists, when := &flag{name: "if-exists", kind: boolean}, &flag{name: "when"}
	if err := r.parseFlags([]*flag{chown, chmod, link, keep, checksum, unpack, exclude}, ifExists, when); err != nil {
		return nil, err
	}
	if err := r.optional(&t, ifExists, when); err != nil {
		return nil, err
	}
	t.Chown, t.Chmod, t.Link, t.Exclude = chown.value, chmod.value, link.on, exclude.values
	return &Add{Pos: r.Pos, Transfer: t, Checksum: checksum.value, KeepGitDir: keep.tri(), Unpack: unpack.tri()}, nil
}

// hasVariable reports whether s holds a "$" that begins something.
func hasVariable(s string) bool {
	i := strings.IndexByte(s, '$')
	return i >= 0 && i != len(s)-1
}
