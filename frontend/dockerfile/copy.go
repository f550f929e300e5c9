package dockerfile

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/llb"
)

// A transfer is a COPY or ADD with its variables expanded.
type transfer struct {
	*instruction.Pos
	instruction.Transfer
	keyword  string
	from     output // what Sources are paths in
	stage    *stage // whose files those are, nil for the build context
	parents  bool
	unpack   bool  // archives among local files
	fetch    *bool // unpack archives among downloads
	keepGit  *bool
	checksum string

	dest string // absolute
	mode llb.Mode
	name string // of the vertex
}

func (b *build) copy(s *stage, in *instruction.Copy, from []*stage) error {
	t := &transfer{Pos: in.Pos, Transfer: in.Transfer, keyword: "COPY", from: b.context, parents: in.Parents}
	if len(from) > 0 {
		t.from, t.stage = from[0].out, from[0]
	}
	if on, err := b.wanted(s, &t.Transfer); err != nil || !on {
		return err
	}
	if err := b.transfer(s, t); err != nil {
		return err
	}
	read := s.contextRead
	if len(from) > 0 {
		read = from[0].read
	}
	for _, src := range t.Sources {
		if len(from) == 0 {
			b.lintIgnored(in.Pos, src)
		}
		read.add(b.followed(src))
	}
	return nil
}

func (b *build) add(s *stage, in *instruction.Add) error {
	t := &transfer{
		Pos: in.Pos, Transfer: in.Transfer, keyword: "ADD", from: b.context,
		unpack: in.Unpack == nil || *in.Unpack, fetch: in.Unpack, keepGit: in.KeepGitDir,
	}
	if on, err := b.wanted(s, &t.Transfer); err != nil || !on {
		return err
	}
	var err error
	if t.checksum, err = b.expand(s, in.Checksum); err != nil {
		return err
	}
	if err := b.transfer(s, t); err != nil {
		return err
	}
	for _, src := range t.Sources {
		if !strings.HasPrefix(src, "http://") && !strings.HasPrefix(src, "https://") {
			b.lintIgnored(in.Pos, src)
			s.contextRead.add(b.followed(src))
		}
	}
	return nil
}

// transfer lowers t to one file op, or with --link to a file op on nothing that is laid
// over the stage.
func (b *build) transfer(s *stage, t *transfer) error {
	if err := b.expandTransfer(s, t); err != nil {
		return err
	}
	t.name = b.stepName(s, t.Source, b.lex, &s.env, s.platform)
	var actions []action
	for i, src := range t.Sources {
		a, err := b.transferSource(t, s.slashes(src), t.Optional != nil && t.Optional[i])
		if err != nil {
			return err
		}
		actions = append(actions, a)
	}
	for _, doc := range t.Documents {
		actions = append(actions, t.action(b.inline(doc.Name, 0o644, doc.Data), doc.Name))
	}
	meta := b.meta(s, t.Pos, t.name)
	meta.Description = map[string]string{}
	b.reads(t.keyword, t.stage, t.Sources...).Describe(meta.Description, "")
	if t.Link && t.Chmod == "" {
		b.transferLinked(s, t, actions, meta)
	} else {
		s.out = fileOp(s.out, meta, actions...)
	}
	s.commit(t.history()+" # buildkit", true)
	return nil
}

func (b *build) transferLinked(s *stage, t *transfer, actions []action, meta llb.Meta) {
	id := digest.FromString(s.label + "\x00" + t.name).Encoded()[:25]
	layer, over := meta, meta
	over.Description = nil
	layer.Group = &pb.ProgressGroup{Id: id, Name: t.name, Weak: true}
	over.Group = &pb.ProgressGroup{Id: id, Name: t.name}
	source := t.Source
	if text, _, err := b.lex.ProcessWord(source, &s.env); err == nil {
		source = text
	}
	over.Name = b.vertexName(s, "LINK "+upperKeyword(source), s.platform, &s.env)
	s.out = mergeOp(over, s.out, fileOp(output{}, layer, actions...))
}

func (b *build) expandTransfer(s *stage, t *transfer) error {
	var err error
	for _, f := range []*string{&t.Chown, &t.Chmod, &t.Dest} {
		if *f, err = b.expand(s, *f); err != nil {
			return err
		}
	}
	if t.Sources, err = b.expandAll(s, t.Sources); err != nil {
		return err
	}
	for _, p := range slices.Concat(t.Sources, []string{t.Dest}) {
		if s.platform.OS == windows && len(p) > 1 && p[1] == ':' && !strings.EqualFold(p[:1], "c") {
			return fmt.Errorf("%s is not on drive C:, which is all that an image has", p)
		}
	}
	exclude := make([]string, len(t.Exclude))
	for i, p := range t.Exclude {
		// A pattern has backslashes of its own, so it is touched only if it must be.
		if exclude[i] = p; strings.Contains(p, "$") {
			if exclude[i], err = b.expand(s, p); err != nil {
				return err
			}
		}
	}
	t.Exclude = exclude
	docs := make([]instruction.Heredoc, len(t.Documents))
	for i, d := range t.Documents {
		if docs[i] = d; d.Expand {
			lex := shell.NewLex('\\')
			lex.SkipProcessQuotes = true
			var unknown map[string]struct{}
			if docs[i].Data, unknown, err = lex.ProcessWord(d.Data, &s.env); err != nil {
				return err
			}
			b.lintVars(s, unknown)
		}
	}
	t.Documents = docs
	t.dest = destination(s.dir, s.slashes(t.Dest))
	return t.check()
}

// destination is a path in the stage; what it ends in ("/", "/.") says that it is a
// directory and is kept.
func destination(dir, p string) string {
	written := p
	if p == "" || p == "." {
		written = "./"
	}
	abs := path.Clean(join(dir, written))
	switch {
	case strings.HasSuffix(written, "/.") && abs != "/":
		return abs + "/."
	case strings.HasSuffix(written, "/."):
		return "/."
	case strings.HasSuffix(written, "/") && abs != "/":
		return abs + "/"
	}
	return abs
}

var symbolicMode = regexp.MustCompile(`^[ugoa]*([-+=]([rwxXst]*|[ugo]))+(,[ugoa]*([-+=]([rwxXst]*|[ugo]))+)*$`)

// check parses the mode and the checksum's preconditions.
func (t *transfer) check() error {
	t.mode = llb.KeepMode
	if t.Chmod != "" {
		n, err := strconv.ParseUint(t.Chmod, 8, 32)
		switch {
		case err == nil && n <= 0o7777:
			t.mode = llb.Mode{Bits: int32(n)}
		case err != nil && symbolicMode.MatchString(t.Chmod):
			t.mode = llb.Mode{Symbolic: t.Chmod}
		default:
			return fmt.Errorf("invalid chmod parameter: '%v'. it should be octal string and between 0 and 07777, or symbolic like u=rwX,go=rX", t.Chmod)
		}
	}
	if t.checksum != "" {
		if len(t.Sources) != 1 || len(t.Documents) > 0 {
			return errors.New("checksum can't be specified for multiple sources")
		}
		if !isHTTP(t.Sources[0]) && !isGit(t.Sources[0]) {
			return errors.New("checksum requires HTTP(S) or Git sources")
		}
	}
	return nil
}

// history is how the image's history shows the instruction.
func (t *transfer) history() string {
	var h strings.Builder
	h.WriteString(t.keyword)
	if t.parents {
		h.WriteString(" --parents")
	}
	if t.Chown != "" {
		h.WriteString(" --chown=" + t.Chown)
	}
	if t.Chmod != "" {
		h.WriteString(" --chmod=" + t.Chmod)
	}
	for i, src := range t.Sources {
		h.WriteString(" " + src)
		if t.Optional != nil && t.Optional[i] {
			h.WriteByte('?')
		}
	}
	for _, doc := range t.Documents {
		h.WriteString(" <<" + doc.Name)
	}
	h.WriteString(" " + t.Dest)
	return h.String()
}

// transferSource makes the action for one source.
func (b *build) transferSource(t *transfer, src string, optional bool) (action, error) {
	g, err := parseGitRef(src)
	switch {
	case err != nil:
		return action{}, err
	case optional && (g != nil && !g.ambiguous || isHTTP(src)):
		return action{}, fmt.Errorf("%s: only files of a build context, a stage or an image can be optional, not what is fetched", src)
	case g != nil && !g.ambiguous:
		if t.keyword != "ADD" {
			return action{}, errors.New("source can't be a git ref for COPY, use ADD")
		}
		return b.addGit(t, g)
	case isHTTP(src):
		if t.keyword != "ADD" {
			return action{}, errors.New("source can't be a URL for COPY, use ADD")
		}
		return b.addURL(t, src)
	}
	a := t.action(t.from, path.Join("/", src))
	c := &a.copy
	c.FollowSymlinks, c.ContentsOnly = true, true
	c.AllowWildcard, c.AllowEmptyWildcard = true, true
	c.AttemptUnpack = t.unpack
	if t.parents {
		// What comes after "/./" keeps its directories.
		pivot, pattern, ok := strings.Cut(src, "/./")
		if !ok {
			pivot, pattern = "/", src
		}
		pattern = join("/", pattern)
		c.Src = path.Join("/", pivot)
		c.Include = []string{strings.TrimPrefix(pattern, "/")}
		if !optional && !hasWildcard(pivot) && !hasWildcard(pattern) {
			c.RequiredPaths = []string{join("/", path.Join(pivot, pattern))}
		}
	}
	if optional {
		c.Src = perhaps(c.Src)
	}
	return a, nil
}

// action copies src of an output to the destination.
func (t *transfer) action(from output, src string) action {
	return action{from: from, copy: llb.Copy{
		Src: path.Join("/", src), Dest: t.dest, Owner: owner(t.Chown),
		Mode: t.mode, CreateDestPath: true, Exclude: t.Exclude,
	}}
}

// owner is nil if nobody is named.
func owner(name string) *llb.Owner {
	if name == "" {
		return nil
	}
	return llb.ParseOwner(name)
}

func hasWildcard(p string) bool {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}

func (b *build) addGit(t *transfer, g *gitRef) (action, error) {
	if g.keepDir != nil && t.keepGit != nil && *g.keepDir != *t.keepGit {
		return action{}, errors.New("keep-git-dir of the flag and of the URL differ")
	}
	if g.checksum != "" && t.checksum != "" && g.checksum != t.checksum {
		return action{}, fmt.Errorf("checksum %q of the flag and %q of the URL differ", t.checksum, g.checksum)
	}
	if g.keepDir == nil {
		g.keepDir = t.keepGit
	}
	if g.checksum == "" {
		g.checksum = t.checksum
	}
	g.mtime = "" // it is for contexts
	return t.action(b.opts.gitSource(g, b.fetchMeta(t)), "/"), nil
}

// fetchMeta is about the source that an ADD fetches: an error names the line.
func (b *build) fetchMeta(t *transfer) llb.Meta {
	return llb.Meta{Name: t.name, Locations: b.locations(t.Pos)}
}

func (b *build) addURL(t *transfer, src string) (action, error) {
	name := "__unnamed__" // the server may know better
	if u, err := url.Parse(src); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" {
			name = base
		}
	}
	if t.checksum != "" {
		if err := digest.Digest(t.checksum).Validate(); err != nil {
			return action{}, fmt.Errorf("checksum %q: %w", t.checksum, err)
		}
	}
	a := t.action(httpSource(src, name, t.checksum, b.fetchMeta(t)), name)
	a.copy.AttemptUnpack = t.fetch != nil && *t.fetch
	return a, nil
}
