package dockerfile

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	spec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/internal/ignore"
)

// A stage is a stage of the Dockerfile, or an image or named context that an instruction
// reads from: that is a stage with nothing but a FROM.
type stage struct {
	index   int // in the Dockerfile; -1 for what an instruction reads from
	name    string
	label   string // what vertex names call it
	base    string // the base as written, with ARGs expanded
	source  string // the FROM line
	at      []parser.Range
	parent  *stage // the stage that FROM names
	steps   []*step
	context *namedContext // replaces the stage, or nil
	given   bool          // a named context replaces the base
	ignore  *ignore.File  // of the named context, or nil
	reset   []instruction.Reset
	known   *knowledge // at its end; nil in the plain language, which does not need it
	epoch   *time.Time

	platform  *ocispec.Platform
	image     *spec.DockerOCIImage
	baseImage *spec.DockerOCIImage // as resolved; never changed
	state                          // as of the last instruction lowered
	args      []buildArg           // declared so far, those of parents first

	needed      bool
	resolved    bool // a root: its base is known
	triggered   bool // the base's ONBUILDs are among the steps
	noCache     bool
	notImage    bool    // it stands for a named context that is no image
	contextRead pathSet // what it reads of the build context
	read        pathSet // what is read of its base, by it and by stages on top of it

	declared  map[string]bool // the names of the first of args
	noted     int             // how many those are
	configEnv map[string]int  // places of variables in the image config; nil until somebody asks
	settled   bool            // the last variables of env are those of the image config, as they are there
	heir      *stage          // the last one that is built on this; nil if that may not take what this has

	mounted []mounted

	exports     exports
	imported    []place                 // where files from others went
	layers      int                     // of the state; -1 if that is not known
	startLayers int                     // of the base
	start       output                  // the base
	limited     func(layers int) output // the base image's lowest layers; nil if that cannot be had

	total, number int // of the instructions that make vertices
	inTrigger     bool

	current                       *instruction.Pos // being lowered
	cmdAt, entrypointAt, healthAt *instruction.Pos // the last of their kind in this stage
	workdirSet                    bool             // by this Dockerfile
}

// A step is an instruction and the stages that it reads from: for COPY --from one, for
// RUN one per mount, nil for the build context.
type step struct {
	instruction.Instruction
	from    []*stage
	trigger bool
	err     error // why it cannot be done, if its stage is needed
}

// A buildArg is a declared argument; value is nil if it has none.
type buildArg struct {
	key    string
	value  *string
	global bool // its value is that of the global scope
	doc    string
	at     []parser.Range
}

// plan makes the stages and finds those that the target needs.
func (b *build) plan() (target *stage, err error) {
	for i, in := range b.file.Stages {
		s, err := b.newStage(i, in)
		if err != nil {
			return nil, parser.WithLocation(err, in.From.Ranges)
		}
		b.stages = append(b.stages, s)
		if s.name != "" {
			b.named[fold(s.name)] = append(b.named[fold(s.name)], i)
		}
	}
	if target, err = b.findTarget(); err != nil {
		return nil, err
	}
	for i, s := range b.stages {
		if s.context != nil {
			continue // its instructions are not those of the file
		}
		if b.file.Dialect != instruction.Plain {
			s.known = b.knowledge(s)
		}
		for _, in := range b.file.Stages[i].Body {
			if s.known != nil {
				b.learn(s.known, in)
			}
			st, err := b.link(s, in)
			if err != nil {
				return nil, parser.WithLocation(err, in.At().Ranges)
			}
			s.steps = append(s.steps, st)
		}
	}
	if len(b.stages) == 1 && !b.stages[0].readsOthers() {
		b.stages[0].label = ""
	}
	b.need(target)
	if b.all {
		for _, s := range b.stages {
			b.need(s)
		}
	}
	for _, s := range b.stages {
		for _, st := range s.steps {
			if s.needed && st.err != nil {
				return nil, parser.WithLocation(st.err, st.At().Ranges)
			}
		}
	}
	return target, nil
}

func (b *build) newStage(i int, in *instruction.Stage) (*stage, error) {
	from := in.From
	s := &stage{
		index: i, name: from.Name, label: from.Name, source: from.Source, at: from.Ranges, reset: from.Reset,
		epoch: b.epoch, contextRead: pathSet{}, read: pathSet{},
		noCache: b.opts.ignoresCache(from.Name),
	}
	b.lintBase(from, &b.plain)
	var err error
	if s.base, _, err = b.lex.ProcessWord(from.Base, &b.global); err != nil {
		return nil, err
	}
	if s.base == "" {
		return nil, fmt.Errorf("base name (%s) should not be blank", from.Base)
	}
	if from.Platform != "" {
		if s.platform, err = b.stagePlatform(from.Platform); err != nil {
			return nil, err
		}
	}
	if s.name != "" {
		if s.context, err = b.namedContext(s.name, s.platform); err != nil || s.context != nil {
			return s, err
		}
	} else {
		s.label = "stage-" + strconv.Itoa(i)
	}
	if s.parent = b.lookup(s.base, i); s.parent == nil && s.base != scratch {
		s.total = 1 // FROM makes a vertex of its own
	}
	for _, in := range in.Body {
		if makesVertex(in) {
			s.total++
		}
	}
	return s, nil
}

func makesVertex(in instruction.Instruction) bool {
	switch in.(type) {
	case *instruction.Add, *instruction.Copy, *instruction.Run, *instruction.Workdir, *instruction.Import:
		return true
	}
	return false
}

func (b *build) stagePlatform(text string) (*ocispec.Platform, error) {
	res, err := b.lex.ProcessWordWithMatches(text, &b.global)
	if err != nil {
		return nil, fmt.Errorf("failed to process arguments for platform %s: %w", text, err)
	}
	p, err := platforms.Parse(res.Result)
	if err == nil && res.Result != "" {
		return &p, nil
	}
	if res.Result == "" {
		err = fmt.Errorf("empty platform value from expression %s", text)
	} else {
		err = fmt.Errorf("failed to parse platform %s: %w", text, err)
	}
	for name := range res.Unmatched {
		err = instruction.Suggest(err, name, b.global.Keys())
	}
	return nil, err
}

// lookup finds the last stage before index i that has a name, or the number, ref.
func (b *build) lookup(ref string, i int) *stage {
	same := b.named[fold(ref)]
	if n, _ := slices.BinarySearch(same, i); n > 0 {
		return b.stages[same[n-1]]
	}
	if n, err := strconv.Atoi(ref); err == nil && n >= 0 && n < i {
		return b.stages[n]
	}
	return nil
}

// fold makes one of names that differ in case only, as strings.EqualFold has it.
func fold(name string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, name)
}

func (b *build) findTarget() (*stage, error) {
	if b.opts.target == "" {
		return b.stages[len(b.stages)-1], nil
	}
	if s := b.lookup(b.opts.target, len(b.stages)); s != nil {
		return s, nil
	}
	return nil, instruction.Suggest(fmt.Errorf("target stage %q could not be found", b.opts.target), b.opts.target, b.stageNames())
}

func (b *build) stageNames() []string {
	var names []string
	for _, s := range b.stages {
		if s.name != "" {
			names = append(names, s.name)
		}
	}
	return names
}

// readsOthers reports whether an instruction has a source besides the build context, or a
// mount, which counts as one.
func (s *stage) readsOthers() bool {
	return slices.ContainsFunc(s.steps, func(st *step) bool { return len(st.from) > 0 })
}

// readsContext reports whether a needed stage reads the build context.
func (b *build) readsContext() bool {
	return slices.ContainsFunc(b.stages, func(s *stage) bool {
		return s.needed && slices.ContainsFunc(s.steps, func(st *step) bool {
			switch in := st.Instruction.(type) {
			case *instruction.Add:
				return len(in.Sources) > 0
			case *instruction.Copy:
				return len(st.from) == 0 && len(in.Sources) > 0
			case *instruction.Run:
				return in.Context
			}
			return false
		})
	})
}

// link finds the stages that an instruction reads from.
func (b *build) link(s *stage, in instruction.Instruction) (*step, error) {
	st := &step{Instruction: in}
	switch in := in.(type) {
	case *instruction.Copy:
		if in.From != "" {
			from, err := b.linkFrom(s, st, "--from", in.From)
			if err != nil {
				return nil, err
			}
			st.from = []*stage{from}
		}
	case *instruction.Run:
		for _, name := range in.From {
			var from *stage
			if name != "" {
				var err error
				if from, err = b.linkFrom(s, st, "from", name); err != nil {
					return nil, err
				}
			}
			st.from = append(st.from, from)
		}
	case *instruction.Import:
		for _, ref := range in.Refs {
			from, err := b.importable(s, in, ref)
			if err = st.postpone(err); err != nil {
				return nil, err
			}
			st.from = append(st.from, from)
		}
	}
	return st, nil
}

// linkFrom finds what one --from means. What cannot be known matters only if the stage is
// needed.
func (b *build) linkFrom(s *stage, st *step, what, name string) (*stage, error) {
	name, err := b.expandFrom(s.known, what, name)
	if err != nil {
		st.err = cmp.Or(st.err, err)
		return nil, nil
	}
	from, err := b.readable(s, name, st.At().Ranges)
	return from, st.postpone(err)
}

// A laterError is about a stage that comes too late to be read from.
type laterError struct {
	name      string
	line      string
	importing bool
}

func (e *laterError) Error() string {
	if e.importing {
		return fmt.Sprintf("IMPORT: stage %q needs to be defined before current command: it begins on line %s", e.name, e.line)
	}
	return fmt.Sprintf("cannot copy from stage %q, it needs to be defined before current stage: it begins on line %s", e.name, e.line)
}

// postpone keeps the errors that matter only if the stage is needed.
func (st *step) postpone(err error) error {
	var later *laterError
	if errors.As(err, &later) {
		st.err = err
		return nil
	}
	return err
}

// readable is what --from of an instruction of s means: a stage before s, or an image or
// context of that name.
func (b *build) readable(s *stage, name string, at []parser.Range) (*stage, error) {
	if from := b.lookup(name, s.index); from != nil {
		return from, nil
	}
	if strings.EqualFold(name, s.name) {
		return nil, fmt.Errorf("circular dependency detected on stage: %s", s.name)
	}
	same := b.named[fold(name)]
	if i, _ := slices.BinarySearch(same, s.index+1); i < len(same) {
		return nil, &laterError{name: name, line: b.loader.spot(b.stages[same[i]].at).line()}
	}
	if n, err := strconv.Atoi(name); err == nil {
		switch {
		case n == s.index:
			return nil, errors.New("a stage cannot read from itself")
		case n < 0 || n >= len(b.stages):
			return nil, fmt.Errorf("invalid stage index %d", n)
		}
		return nil, &laterError{name: name, line: b.loader.spot(b.stages[n].at).line()}
	}
	ext := &stage{index: -1, base: name, at: at, epoch: b.epoch, contextRead: pathSet{}, read: pathSet{}}
	b.external = append(b.external, ext)
	return ext, nil
}

// need marks a stage, and all that it is made from, as wanted.
func (b *build) need(s *stage) {
	if s == nil || s.needed {
		return
	}
	s.needed = true
	if s.parent != nil && s.context == nil {
		b.need(s.parent)
	}
	for _, st := range s.steps {
		for _, from := range st.from {
			b.need(from)
		}
	}
}

// addTriggers puts the ONBUILD instructions of the bases of needed stages before their
// own. It reports whether these read from stages or images.
func (b *build) addTriggers() (more bool, err error) {
	for _, s := range b.stages {
		if !s.needed || s.triggered || s.context != nil {
			continue
		}
		s.triggered = true
		var texts []string
		if s.parent == nil {
			texts = s.image.Config.OnBuild
			s.image.Config.OnBuild = nil
		} else if s.parent.context != nil {
			texts = s.parent.image.Config.OnBuild
		} else {
			for _, st := range s.parent.steps {
				if ob, ok := st.Instruction.(*instruction.OnBuild); ok {
					texts = append(texts, ob.Trigger)
				}
			}
		}
		if s.resetsTriggers() {
			texts = nil
		}
		steps := make([]*step, 0, len(texts)+len(s.steps))
		for _, text := range texts {
			in, err := instruction.ParseTrigger(text, s.at)
			if err != nil {
				return false, err
			}
			if err := b.loader.foreign(in); err != nil {
				return false, parser.WithLocation(fmt.Errorf("onbuild trigger %q: %w", text, err), s.at)
			}
			st, err := b.link(s, in)
			if err == nil {
				err = st.err
			}
			if err != nil {
				return false, parser.WithLocation(err, s.at)
			}
			st.trigger = true
			for _, from := range st.from {
				if from != nil {
					b.need(from)
					more = more || !from.resolved
				}
			}
			steps = append(steps, st)
		}
		s.steps = append(steps, s.steps...)
		s.total += len(texts)
	}
	return more, nil
}
