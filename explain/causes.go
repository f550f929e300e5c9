package explain

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dbuild/dbuild/llb"
)

func (e *explainer) noCache(s *Step) Cause {
	text := "the build was told not to use the cache (--no-cache)"
	if f := e.now.NoCache; f != "" && f != "*" {
		text = fmt.Sprintf("the build was told not to use the cache for the stage (--no-cache-filter=%s)", f)
	} else if f == "" {
		text = "the step was told not to use the cache"
	}
	if s.Kind == "build" {
		text = "it is a build within the build, which is not looked up"
	}
	return Cause{Kind: NoCache, Text: text}
}

// evicted tells that a result was there, and if it is known, who removed it.
func (e *explainer) evicted(s *Step, had *found) Cause {
	c := Cause{Kind: Evicted, Text: fmt.Sprintf("nothing changed, but the result of the build at %s is no longer in the cache", clock(had.t.Started, e.now.Started))}
	for _, r := range e.now.Removals {
		if r.At.Before(had.t.Started) {
			continue
		}
		if r.All || slices.ContainsFunc(had.s.Layers, func(l string) bool { return slices.Contains(r.Layers, l) }) {
			c.Subject = r.By
			c.Text = fmt.Sprintf("nothing changed, but the result was removed from the cache by %s at %s", r.By, clock(r.At, e.now.Started))
			break
		}
	}
	return c
}

// clock is a time of day, with the date if that is not the day of the other.
func clock(t, other time.Time) string {
	t, other = t.Local(), other.Local()
	if t.YearDay() == other.YearDay() && t.Year() == other.Year() {
		return t.Format("15:04:05")
	}
	return t.Format("2006-01-02 15:04:05")
}

// first is for a step when there is no earlier build like this.
func (e *explainer) first(i int) Cause {
	s := &e.now.Steps[i]
	if len(e.now.Imports) > 0 && s.Kind != "source" {
		return Cause{Kind: Import, Subject: strings.Join(e.now.Imports, ", "), Text: fmt.Sprintf("no earlier build here is like this one, and the imported cache (%s) has no record of the step", strings.Join(e.now.Imports, ", "))}
	}
	return Cause{Kind: First, Text: "no earlier build here is like this one"}
}

// unfound is for a step that is the same as before, as far as is known.
func (e *explainer) unfound(s, o *Step) (Cause, bool) {
	if s.Key != "" && s.Key == o.Key {
		return Cause{Kind: Evicted, Text: "nothing changed, but no result is in the cache: the earlier build did not complete the step"}, true
	}
	return Cause{}, false
}

func (e *explainer) added(i int) Cause {
	s := &e.now.Steps[i]
	c := Cause{Kind: Added, Text: "the instruction is new", Subject: s.Text()}
	if s.Place != nil {
		c.File, c.Line = e.now.Files[s.Place.File].Name, s.Place.Start
	}
	return c
}

// self compares what two steps consist of, apart from their inputs.
func (e *explainer) self(s, o *Step) (out []Cause) {
	if s.Spec != "" && s.Spec == o.Spec {
		return nil
	}
	if s.Kind == "source" {
		return e.source(s, o)
	}
	add := func(c Cause) { out = append(out, c) }
	single := func(kind string) (was, is string, differ bool) {
		was, is = one(o.Facts, kind), one(s.Facts, kind)
		return was, is, was != is
	}
	if was, is, differ := single(factPlatform); differ {
		add(Cause{Kind: Platform, Old: was, New: is, Text: fmt.Sprintf("the platform is %s, it was %s", is, was)})
	}
	if was, is := e.old.source(o), e.now.source(s); was != is {
		add(e.instruction(s, o, was, is))
	} else if was, is, differ := single(factCommand); differ {
		add(Cause{Kind: Changed, Old: was, New: is, Text: fmt.Sprintf("the command changed (%s -> %s)", short(was), short(is))})
	}
	env := e.env(s, o)
	out = append(out, env...)
	named := func(kind string, cause CauseKind, what string) {
		for _, d := range diff(named(o.Facts, kind), named(s.Facts, kind)) {
			c := Cause{Kind: cause, Subject: d.name, Old: d.was, New: d.is}
			switch {
			case d.was == "" && d.is != "" && d.old != "":
				c.Text = fmt.Sprintf("%s is %q, it was %q", what, d.name, d.old)
				c.Old, c.New = d.old, d.name
			case d.added:
				c.Text = fmt.Sprintf("%s %q is new (%s)", what, d.name, d.is)
			case d.gone:
				c.Text = fmt.Sprintf("%s %q is gone", what, d.name)
			default:
				c.Text = fmt.Sprintf("%s %q changed (%s -> %s)", what, d.name, d.was, d.is)
			}
			add(c)
		}
	}
	named(factSecret, Secret, "the id of the secret")
	named(factSSH, SSH, "the id of the ssh agent")
	named(factMount, Mount, "the mount at")
	named(factOption, Option, "the option")
	if len(out) == 0 {
		was, is := actions(o.Facts), actions(s.Facts)
		if was != is {
			add(Cause{Kind: Changed, Old: was, New: is, Text: fmt.Sprintf("what it does changed (%s -> %s)", short(was), short(is))})
		}
	}
	if len(out) == 0 && s.Spec != "" && o.Spec != "" {
		add(Cause{Kind: Changed, Text: "the step changed in a way that is not recorded"})
	}
	return precise(out)
}

// precise leaves out that the instruction changed if it is known what of it.
func precise(list []Cause) []Cause {
	known := func(c Cause) bool {
		return c.Kind == Secret || c.Kind == SSH || c.Kind == Mount || c.Kind == Platform
	}
	if slices.ContainsFunc(list, known) {
		return slices.DeleteFunc(list, func(c Cause) bool { return c.Kind == Changed && c.Subject == "options" })
	}
	return list
}

// instruction tells that what is written changed.
func (e *explainer) instruction(s, o *Step, was, is string) Cause {
	c := Cause{Kind: Changed, Old: was, New: is, Text: fmt.Sprintf("the instruction changed (it was %s)", short(was))}
	if one(s.Facts, factCommand) == one(o.Facts, factCommand) && s.Kind == "exec" {
		c.Subject = "options" // of the instruction
	}
	if s.Place != nil {
		c.File, c.Line = e.now.Files[s.Place.File].Name, s.Place.Start
	}
	return c
}

// env compares the variables that a process has.
func (e *explainer) env(s, o *Step) (out []Cause) {
	was, is := named(o.Facts, factEnv), named(s.Facts, factEnv)
	for _, d := range diff(was, is) {
		c := Cause{Kind: Env, Subject: d.name, Old: d.was, New: d.is}
		what := "the environment variable " + d.name
		since := ""
		if name, line, arg := e.declared(e.now, s, d.name); line > 0 {
			c.File, c.Line = name, line
			if arg {
				c.Kind, what = BuildArg, "the build argument "+d.name
			}
			since = fmt.Sprintf(", visible since line %d", line)
		} else if _, line, arg := e.declared(e.old, o, d.name); line > 0 && arg {
			c.Kind, what = BuildArg, "the build argument "+d.name
		}
		switch {
		case llb.IsPeriod(d.name) && !d.gone:
			c.Text = fmt.Sprintf("its --cache-ttl has begun anew (%s)", d.is)
		case d.added:
			c.Text = fmt.Sprintf("%s is set here now (%s)%s", what, short(d.is), since)
		case d.gone:
			c.Text = what + " is no longer set here"
		default:
			c.Text = fmt.Sprintf("%s changed (%s -> %s)%s", what, short(d.was), short(d.is), since)
		}
		out = append(out, c)
	}
	if len(out) == 0 && len(was) > 0 && !slices.Equal(was, is) {
		names := func(list []Fact) string {
			var out []string
			for i, f := range list {
				if i < len(was) && i < len(is) && was[i].Name != is[i].Name {
					out = append(out, f.Name)
				}
			}
			return strings.Join(out, ", ")
		}
		c := Cause{Kind: ArgOrder, Old: names(was), New: names(is)}
		c.Text = fmt.Sprintf("the order of variables changed (%s, it was %s)", c.New, c.Old)
		out = append(out, c)
	}
	return out
}

// declaration matches ARG and ENV instructions.
var declaration = regexp.MustCompile(`(?i)^\s*(ARG|ENV)\s+(.*)$`)

// declared finds the last line before a step that sets a variable, in its stage or before
// the first.
func (e *explainer) declared(t *Trace, s *Step, name string) (file string, line int, arg bool) {
	if s.Place == nil {
		return "", 0, false
	}
	f := t.Files[s.Place.File]
	for i, l := range strings.Split(f.Text, "\n") {
		if i+1 > s.Place.End {
			break
		}
		if strings.HasPrefix(strings.ToUpper(strings.TrimSpace(l)), "FROM ") {
			line = 0
			continue
		}
		m := declaration.FindStringSubmatch(l)
		if m == nil {
			continue
		}
		for _, w := range strings.Fields(m[2]) {
			if k, _, _ := strings.Cut(w, "="); k == name {
				file, line, arg = f.Name, i+1, strings.EqualFold(m[1], "arg")
			}
		}
	}
	return file, line, arg
}

// source compares what two sources are.
func (e *explainer) source(s, o *Step) (out []Cause) {
	was, is := one(o.Facts, factSource), one(s.Facts, factSource)
	pw, pi := one(o.Facts, factPlatform), one(s.Facts, factPlatform)
	if pw != pi {
		out = append(out, Cause{Kind: Platform, Old: pw, New: pi, Text: fmt.Sprintf("the platform is %s, it was %s", pi, pw)})
	}
	if a, b := unpinned(was), unpinned(is); a != b {
		out = append(out, Cause{Kind: Changed, Subject: b, Old: a, New: b, Text: fmt.Sprintf("it is %s, it was %s", b, a)})
		return append(out, e.argOf(s)...)
	}
	if len(out) > 0 {
		return out
	}
	if s.Pin != o.Pin && s.Pin != "" && o.Pin != "" {
		out = append(out, Cause{Kind: Source, Subject: unpinned(is), Old: o.Pin, New: s.Pin, Text: fmt.Sprintf("%s now means %s, it was %s", unpinned(is), shortPin(s.Pin), shortPin(o.Pin))})
	} else if was != is {
		out = append(out, Cause{Kind: Source, Subject: unpinned(is), Old: was, New: is, Text: fmt.Sprintf("%s now means %s, it was %s", unpinned(is), shortPin(pinOf(is)), shortPin(pinOf(was)))})
	}
	for _, d := range diff(named(o.Facts, factAttr), named(s.Facts, factAttr)) {
		out = append(out, Cause{Kind: Option, Subject: d.name, Old: d.was, New: d.is, Text: fmt.Sprintf("its option %s changed (%s -> %s)", d.name, short(d.was), short(d.is))})
	}
	return out
}

// argOf names the build arguments that changed and are in the text of a step.
func (e *explainer) argOf(s *Step) (out []Cause) {
	text := e.now.source(s)
	for _, name := range sortedKeys(e.now.Args) {
		was, is := e.old.Args[name], e.now.Args[name]
		if was != is && (strings.Contains(text, "$"+name) || strings.Contains(text, "${"+name)) {
			out = append(out, Cause{Kind: BuildArg, Subject: name, Old: was, New: is, Text: fmt.Sprintf("the build argument %s changed (%s -> %s)", name, short(was), short(is))})
		}
	}
	return out
}

// unpinned is an identifier as users write it, without a digest.
func unpinned(id string) string {
	if rest, ok := strings.CutPrefix(id, "docker-image://"); ok {
		id = strings.TrimPrefix(strings.TrimPrefix(rest, "docker.io/library/"), "docker.io/")
	}
	if name, _, ok := strings.Cut(id, "@sha256:"); ok {
		return name
	}
	return id
}

func pinOf(id string) string {
	if _, d, ok := strings.Cut(id, "@sha256:"); ok {
		return "sha256:" + d
	}
	return id
}

func shortPin(p string) string {
	algorithm, hex, ok := strings.Cut(p, ":")
	if !ok {
		algorithm, hex = "", p
	} else {
		algorithm += ":"
	}
	return algorithm + hex[:min(len(hex), 12)]
}

// one is the value of the first fact of a kind.
func one(list []Fact, kind string) string {
	for _, f := range list {
		if f.Kind == kind {
			return f.Value
		}
	}
	return ""
}

func named(list []Fact, kind string) (out []Fact) {
	for _, f := range list {
		if f.Kind == kind {
			out = append(out, f)
		}
	}
	return out
}

func actions(list []Fact) string {
	var out []string
	for _, f := range named(list, factAction) {
		out = append(out, f.Value)
	}
	return strings.Join(out, "; ")
}

// A difference is between facts of the same name.
type difference struct {
	name, was, is string
	added, gone   bool
	old           string // the name that a fact of the same value had
}

// diff compares two lists by name. What only has another name is one difference.
func diff(was, is []Fact) (out []difference) {
	find := func(list []Fact, name string) (string, bool) {
		for _, f := range list {
			if f.Name == name {
				return f.Value, true
			}
		}
		return "", false
	}
	var gone []Fact
	for _, f := range was {
		if _, ok := find(is, f.Name); !ok {
			gone = append(gone, f)
		}
	}
	for _, f := range is {
		old, ok := find(was, f.Name)
		switch {
		case ok && old != f.Value:
			out = append(out, difference{name: f.Name, was: old, is: f.Value})
		case !ok && f.Kind != factEnv && f.Kind != factOption && len(gone) > 0:
			out = append(out, difference{name: f.Name, is: f.Value, old: gone[0].Name})
			gone = gone[1:]
		case !ok:
			out = append(out, difference{name: f.Name, is: f.Value, added: true})
		}
	}
	for _, f := range gone {
		out = append(out, difference{name: f.Name, was: f.Value, gone: true})
	}
	return out
}

// short is a value for a sentence.
func short(s string) string {
	const most = 60
	s = strings.Join(strings.Fields(s), " ")
	if s == "" {
		return `""`
	}
	if r := []rune(s); len(r) > most {
		s = string(r[:most-3]) + "..."
	}
	if !strconv.CanBackquote(s) {
		return strconv.Quote(s)
	}
	return s
}
