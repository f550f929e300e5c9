package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/internal/exportrecord"
	"github.com/dbuild/dbuild/llb"
)

// importable finds what an IMPORT is from, by the rules of COPY --from.
func (b *build) importable(s *stage, in *instruction.Import, ref string) (*stage, error) {
	from, err := b.readable(s, ref, in.Ranges)
	var later *laterError
	switch {
	case errors.As(err, &later):
		later.importing = true
		return nil, err
	case err != nil && (strings.EqualFold(ref, s.name) || ref == strconv.Itoa(s.index)):
		return nil, errors.New("IMPORT cannot reference its own stage")
	case err != nil:
		return nil, fmt.Errorf("IMPORT: %w", err)
	case from.index >= 0 && in.Platform != "":
		return nil, fmt.Errorf("IMPORT: --platform is for images, and %q is a stage", ref)
	case from.index >= 0:
		return from, nil
	}
	// An image is for the platform of the stage, which its first FROM may name.
	root := s
	for root.parent != nil {
		root = root.parent
	}
	from.platform = root.platform
	if in.Platform != "" {
		from.platform, err = b.stagePlatform(in.Platform)
	}
	return from, err
}

// imports replays what stages and images export, as if it stood here.
func (b *build) imports(s *stage, in *instruction.Import, from []*stage) error {
	s.number++
	for i, ref := range in.Refs {
		list, err := b.exportsOf(s, in, ref, from[i])
		if err != nil {
			return err
		}
		r := &replay{build: b, s: s, in: in, ref: ref, from: from[i]}
		s.commit(r.history(), false)
		for _, x := range list {
			if err := r.step(x); err != nil {
				return err
			}
		}
		r.flush()
		s.imported = append(s.imported, r.places...)
	}
	return nil
}

// exportsOf lists what an IMPORT takes of a stage or image.
func (b *build) exportsOf(s *stage, in *instruction.Import, ref string, from *stage) ([]exported, error) {
	if from.notImage {
		return nil, fmt.Errorf("IMPORT: context %q is not an image and has no export record", ref)
	}
	if from.index < 0 || from.context != nil {
		from.readExports()
	}
	if err := from.exports.err; err != nil {
		return nil, fmt.Errorf("IMPORT: %w", err)
	}
	all := from.exports.list
	if len(all) == 0 {
		return nil, b.exportsNothing(s, ref)
	}
	if len(in.Groups) == 0 {
		return all, nil
	}
	var groups []string
	for _, x := range all {
		groups = append(groups, x.InGroup())
	}
	slices.Sort(groups)
	groups = slices.Compact(groups)
	for _, g := range in.Groups {
		if !slices.Contains(groups, g) {
			return nil, instruction.Suggest(fmt.Errorf("IMPORT: %q has no export group %q (has: %s)", ref, g, strings.Join(groups, ", ")), g, groups)
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(x exported) bool { return !slices.Contains(in.Groups, x.InGroup()) }), nil
}

// exportsNothing names the stages that do export something.
func (b *build) exportsNothing(s *stage, ref string) error {
	err := fmt.Errorf("IMPORT: %q exports nothing", ref)
	var names []string
	for _, other := range b.stages[:max(s.index, 0)] {
		exports := slices.ContainsFunc(other.steps, func(st *step) bool { _, ok := st.Instruction.(*instruction.Export); return ok })
		if exports && other.name != "" && !strings.EqualFold(other.name, ref) {
			names = append(names, other.name)
		}
	}
	if close := instruction.Closest(ref, names); close == "" && len(names) > 0 {
		return fmt.Errorf("%w: stages that export something are %s", err, strings.Join(names, ", "))
	}
	return instruction.Suggest(err, ref, names)
}

// A replay carries out what one stage or image exports in another stage.
type replay struct {
	*build
	s      *stage
	in     *instruction.Import
	ref    string
	from   *stage
	linked []output // not laid over the stage yet
	places []place
}

func (r *replay) history() string {
	if len(r.in.Groups) > 0 {
		return "IMPORT --from=" + r.ref + " " + strings.Join(r.in.Groups, " ")
	}
	return "IMPORT " + r.ref
}

// meta describes a vertex. It is about the line of the IMPORT, and of the EXPORT if that is
// in the same file.
func (r *replay) meta(x *exported, text string) llb.Meta {
	m := r.build.meta(r.s, r.in.Pos, r.vertexName(r.s, "IMPORT "+r.ref+": "+text, r.s.platform, &r.s.env))
	if x != nil && x.at != nil {
		m.Locations = append(m.Locations, r.locations(x.at)...)
	}
	return m
}

func (r *replay) step(x exported) error {
	switch x.Kind {
	case exportrecord.Copy:
		if r.in.Wants(instruction.PartFiles) {
			return r.copy(&x)
		}
	case exportrecord.Diff:
		if r.in.Wants(instruction.PartFiles) {
			return r.diff(&x)
		}
	case exportrecord.Env:
		if r.in.Wants(instruction.PartEnv) {
			return r.setEnv(x.Entry)
		}
	case exportrecord.Run:
		if r.in.Wants(instruction.PartRun) {
			r.flush()
			return r.run(x.Entry)
		}
	default:
		if r.in.Wants(instruction.PartMeta) {
			return r.setMeta(x.Entry)
		}
	}
	return nil
}

// copy is COPY --from.
func (r *replay) copy(x *exported) error {
	t := &transfer{
		Pos: r.in.Pos, keyword: "COPY", from: r.from.out, dest: destination("/", x.Dest),
		Transfer: instruction.Transfer{Sources: x.Sources, Dest: x.Dest, Chown: x.Chown, Chmod: x.Chmod, Exclude: x.Exclude},
	}
	if err := t.check(); err != nil {
		return err
	}
	if err := r.claim(x); err != nil {
		return err
	}
	var actions []action
	for _, src := range x.Sources {
		a, err := r.transferSource(t, src, false)
		if err != nil {
			return err
		}
		actions = append(actions, a)
		r.from.read.add(src)
	}
	meta := r.meta(x, strings.Join(x.Sources, " ")+" -> "+x.Dest)
	reads := r.reads("IMPORT", r.from, x.Sources...)
	if x.at != nil {
		reads.Place += ", which exports it on line " + r.loader.spot(x.at.Ranges).line()
	} else {
		reads.Place += fmt.Sprintf(", which exports it by entry %d of its record", x.index)
	}
	meta.Description = map[string]string{}
	reads.Describe(meta.Description, "")
	if r.in.Link && t.Chmod == "" {
		r.linked = append(r.linked, fileOp(output{}, meta, actions...))
	} else {
		r.flush()
		r.s.out = fileOp(r.s.out, meta, actions...)
	}
	r.s.commit("IMPORT "+r.ref+": "+t.history()+" # buildkit", true)
	return nil
}

// flush lays what --link has collected over the stage.
func (r *replay) flush() {
	if len(r.linked) == 0 {
		return
	}
	r.s.out = mergeOp(r.meta(nil, "link"), append([]output{r.s.out}, r.linked...)...)
	r.linked = nil
}

// diff lays all that the exporter changed over the stage.
func (r *replay) diff(x *exported) error {
	if x.err != nil {
		return fmt.Errorf("IMPORT: %w", x.err)
	}
	r.flush()
	lower, upper, layers := x.lower, r.from.out, -1
	r.from.read.add("/")
	if from := r.from; from.index < 0 || from.context != nil {
		from.layers = from.imageLayers()
	}
	if r.from.layers >= 0 && x.Base >= 0 {
		layers = r.from.layers - x.Base
	}
	if len(x.Exclude) > 0 {
		// What is excluded is made no difference.
		lower, layers = fileOp(lower, r.meta(x, "DIFF without "+strings.Join(x.Exclude, " ")), action{from: upper, copy: llb.Copy{
			Src: "/", Dest: "/", Mode: llb.KeepMode, ContentsOnly: true, CreateDestPath: true, Include: x.Exclude,
		}}), 1
	}
	meta := r.meta(x, "DIFF")
	r.s.out = mergeOp(meta, r.s.out, diffOp(meta, lower, upper))
	before := r.s.layers
	for range max(layers, 1) {
		r.s.commit("IMPORT "+r.ref+": DIFF # buildkit", true)
	}
	if before < 0 || layers < 0 {
		r.s.layers = -1
	}
	return nil
}

func diffOp(m llb.Meta, lower, upper output) output {
	return later(func() llb.Output { return llb.Diff(lower.llb(), upper.llb(), m) })
}

// run is RUN, in the stage as it is now.
func (r *replay) run(x exportrecord.Entry) error {
	in := &instruction.Run{
		CommandLine: instruction.CommandLine{Args: x.Args, Shell: x.Shell}, Network: x.Network, Security: "sandbox",
	}
	pos := *r.in.Pos
	pos.Source = "IMPORT " + r.ref + ": RUN " + runText(x)
	in.Pos = &pos
	if x.Shell && strings.HasPrefix(x.Args[0], "#!") {
		in.Args, in.Heredocs = []string{"<<EOF"}, []instruction.Heredoc{{Name: "EOF", Data: x.Args[0]}}
	}
	for _, text := range x.Mounts {
		m, err := instruction.ParseMount(text, func(word string) (string, error) { return word, nil })
		if err == nil {
			err = importableMount(m)
		}
		if err != nil {
			return fmt.Errorf("IMPORT %s: %w", r.ref, err)
		}
		in.Mounts = append(in.Mounts, escapeWord(text, r.file.Escape))
	}
	r.s.number-- // it is not an instruction of its own
	return r.build.run(r.s, in, make([]*stage, len(in.Mounts)))
}

// escapeWord writes a text so that its expansion is the text.
func escapeWord(text string, escape rune) string {
	var b strings.Builder
	for _, c := range text {
		// Double quotes are those of the list.
		if c == '$' || c == '\'' || c == escape {
			b.WriteRune(escape)
		}
		b.WriteRune(c)
	}
	return b.String()
}

// setEnv is ENV. The value sees the variables of the stage, not its arguments.
func (r *replay) setEnv(x exportrecord.Entry) error {
	conf := &r.s.image.Config
	var vars env
	vars.setAll(conf.Env)
	key := r.in.EnvPrefix + x.Key
	value, err := thaw(x.Value, &vars)
	if err != nil {
		return fmt.Errorf("IMPORT %s: ENV %s: %w", r.ref, key, err)
	}
	if old, ok := vars.Get(key); ok && old != value && !mentions(x.Value, key) {
		if err := r.conflict("ENV %s was %q and becomes %q", key, old, value); err != nil {
			return err
		}
	}
	r.s.setBoth(key, value)
	return nil
}

// mentions reports whether a frozen word uses a variable.
func mentions(word, key string) bool {
	lex := shell.NewLex('\\')
	lex.SkipProcessQuotes = true
	res, err := lex.ProcessWordWithMatches(word, &env{})
	_, ok := res.Unmatched[key]
	return err == nil && ok
}

// setMeta is LABEL, EXPOSE or VOLUME.
func (r *replay) setMeta(x exportrecord.Entry) error {
	conf := &r.s.image.Config
	switch x.Kind {
	case exportrecord.Tag:
		if err := checkLabel(x.Key); err != nil {
			return err
		}
		var vars env
		vars.setAll(conf.Env)
		value, err := thaw(x.Value, &vars)
		if err != nil {
			return fmt.Errorf("IMPORT %s: LABEL %s: %w", r.ref, x.Key, err)
		}
		if old, ok := conf.Labels[x.Key]; ok && old != value {
			if err := r.conflict("LABEL %s was %q and becomes %q", x.Key, old, value); err != nil {
				return err
			}
		}
		if conf.Labels == nil {
			conf.Labels = map[string]string{}
		}
		conf.Labels[x.Key] = value
	case exportrecord.Expose:
		ports, err := parsePorts(x.Value)
		if err != nil {
			return fmt.Errorf("IMPORT %s: EXPOSE %s: %w", r.ref, x.Value, err)
		}
		if conf.ExposedPorts == nil {
			conf.ExposedPorts = map[string]struct{}{}
		}
		for _, p := range ports {
			conf.ExposedPorts[p] = struct{}{}
		}
	case exportrecord.Volume:
		if conf.Volumes == nil {
			conf.Volumes = map[string]struct{}{}
		}
		conf.Volumes[x.Value] = struct{}{}
	}
	return nil
}

// A place is where an imported file or directory went, and from where.
type place struct{ path, ref string }

// claim notes where the sources of a copy go. It is a conflict if something from elsewhere
// went there, into it or around it.
func (r *replay) claim(x *exported) error {
	for _, src := range x.Sources {
		to := path.Clean(x.Dest)
		if strings.HasSuffix(x.Dest, "/") || len(x.Sources) > 1 {
			if hasWildcard(src) {
				continue // who knows
			}
			to = path.Join(to, path.Base(src))
		}
		for _, p := range r.s.imported {
			if p.path == to || inside(p.path, to) || inside(to, p.path) {
				if err := r.conflict("%s is the place of %s from %q, too", to, p.path, p.ref); err != nil {
					return err
				}
			}
		}
		r.places = append(r.places, place{to, r.ref})
	}
	return nil
}

func inside(p, dir string) bool { return strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/") }

// conflict reports that an import overrides something, or refuses to.
func (r *replay) conflict(format string, args ...any) error {
	text := "IMPORT " + r.ref + ": " + fmt.Sprintf(format, args...)
	if r.in.Strict {
		return fmt.Errorf("%s, and --on-conflict=error is set", text)
	}
	r.lint.report(importConflict, r.in.Pos, text)
	return nil
}

var importConflict = rule{"ImportConflict", "What is imported should not override what is there: the last one wins, which may not be what you want", "",
	"%s",
	"Leave one of the two out; --on-conflict=error makes it an error."}
