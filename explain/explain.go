package explain

import (
	"time"
)

// A Report says of each step of a build what became of it, and why.
type Report struct {
	Build string `json:"build,omitempty"`
	// Nearest is the earlier build that it was compared with; "" if there was none.
	Nearest string       `json:"comparedWith,omitempty"`
	Started time.Time    `json:"comparedWithStarted,omitzero"`
	Steps   []StepReport `json:"steps"`
}

// A StepReport is about one step.
type StepReport struct {
	Step   int     `json:"-"` // index of Trace.Steps
	Name   string  `json:"name"`
	Digest string  `json:"digest"`
	State  State   `json:"state"`
	File   string  `json:"file,omitempty"`
	Line   int     `json:"line,omitempty"`
	Millis int64   `json:"milliseconds,omitempty"` // that it took, or took in an earlier build
	Causes []Cause `json:"causes,omitempty"`       // the first decides; none if it was found
	// After are the steps because of which this one differs.
	After []string `json:"after,omitempty"`
}

// A Cause is why a step was not found in the cache.
type Cause struct {
	Kind CauseKind `json:"kind"`
	Text string    `json:"text"` // a sentence, without the step
	// Subject is what differs: a path, the name of a variable, an image.
	Subject string `json:"subject,omitempty"`
	Old     string `json:"old,omitempty"`
	New     string `json:"new,omitempty"`
	File    string `json:"file,omitempty"` // where the subject is written
	Line    int    `json:"line,omitempty"`
}

// A CauseKind is what sort of thing differs.
type CauseKind string

// Kinds of causes.
const (
	FileContent  CauseKind = "file-content"
	FileMode     CauseKind = "file-mode"
	FileAdded    CauseKind = "file-added"
	FileRemoved  CauseKind = "file-removed"
	FileRenamed  CauseKind = "file-renamed"
	FileUnlisted CauseKind = "files" // that are not recorded
	IgnoreFile   CauseKind = "ignore-file"
	BuildArg     CauseKind = "build-arg"
	ArgOrder     CauseKind = "arg-order"
	Env          CauseKind = "env"
	Source       CauseKind = "source" // a name means something else now
	Platform     CauseKind = "platform"
	Secret       CauseKind = "secret"
	SSH          CauseKind = "ssh"
	Mount        CauseKind = "mount"
	Option       CauseKind = "option"
	Changed      CauseKind = "instruction-changed"
	Added        CauseKind = "instruction-added"
	Removed      CauseKind = "instruction-removed"
	Follows      CauseKind = "follows" // from an earlier step
	NoCache      CauseKind = "no-cache"
	Evicted      CauseKind = "evicted"
	Import       CauseKind = "import" // a cache that was imported has no record of it
	First        CauseKind = "first"  // there is nothing to compare with
	Unexplained  CauseKind = "unexplained"
)

// Explain says what became of the steps of t, compared with earlier builds, the newest
// first.
func Explain(t *Trace, earlier []*Trace) *Report {
	e := &explainer{now: t, old: nearest(t, earlier), earlier: earlier, others: map[int][]Cause{}}
	r := &Report{Build: t.Build}
	e.reports = make([]*StepReport, len(t.Steps))
	if e.old != nil {
		r.Nearest, r.Started = e.old.Build, e.old.Started
		e.pairs = align(t, e.old)
	}
	for i := range t.Steps {
		s := &t.Steps[i]
		sr := e.step(i)
		e.reports[i] = sr
		if s.own() && s.State != Idle {
			r.Steps = append(r.Steps, *sr)
		}
	}
	return r
}

// explainer compares one build with one other.
type explainer struct {
	now, old *Trace // old may be nil
	earlier  []*Trace
	pairs    []int
	reports  []*StepReport // of the steps so far
	// others are why steps that were found are not what they were in the old build: the
	// cache had the result of another.
	others map[int][]Cause
}

func (e *explainer) step(i int) *StepReport {
	s := &e.now.Steps[i]
	sr := &StepReport{Step: i, Name: s.Name, Digest: s.Digest, State: s.State, Millis: s.Time}
	if s.Place != nil {
		sr.File, sr.Line = e.now.Files[s.Place.File].Name, s.Place.Start
	}
	if sr.Millis == 0 && (s.State == Ran || s.State == Unknown) {
		sr.Millis = e.took(i)
	}
	if s.State != Ran && s.State != Unknown {
		if e.another(i) {
			own, follows := e.causes(i)
			e.others[i] = append(own, follows...)
		}
		return sr
	}
	var follows []Cause
	sr.Causes, follows = e.causes(i)
	for _, c := range follows {
		sr.After = append(sr.After, c.Subject)
	}
	sr.Causes = append(sr.Causes, follows...)
	if len(sr.Causes) == 0 {
		sr.Causes = []Cause{{Kind: Unexplained, Text: "nothing that is recorded differs from the earlier build"}}
	}
	return sr
}

// took is how long it took to run step i, or its counterpart, in the newest earlier build that
// did; 0 if none is known to have.
func (e *explainer) took(i int) int64 {
	specs := []string{e.now.Steps[i].Spec}
	if e.pairs != nil && e.pairs[i] >= 0 {
		specs = append(specs, e.old.Steps[e.pairs[i]].Spec)
	}
	for _, spec := range specs {
		for _, t := range e.earlier {
			for j := range t.Steps {
				if o := &t.Steps[j]; spec != "" && o.Spec == spec && o.Time > 0 {
					return o.Time
				}
			}
		}
	}
	return 0
}

// another reports whether step i was found, but is not what it was in the old build.
func (e *explainer) another(i int) bool {
	if e.pairs == nil {
		return false
	}
	s, j := &e.now.Steps[i], e.pairs[i]
	return s.State != Idle && s.own() && s.Key != "" && (j < 0 || e.old.Steps[j].Key != s.Key)
}

// causes are a step's own ones, and those that it has from steps before it.
func (e *explainer) causes(i int) (own, follows []Cause) {
	s := &e.now.Steps[i]
	if s.NoCache {
		return []Cause{e.noCache(s)}, nil
	}
	if s.Stamped {
		return nil, e.after(i, nil)
	}
	if had := e.had(s); had != nil && (s.State == Ran || s.State == Unknown) {
		return []Cause{e.evicted(s, had)}, nil
	}
	if e.old == nil {
		return []Cause{e.first(i)}, nil
	}
	j := -1
	if e.pairs != nil {
		j = e.pairs[i]
	}
	if j < 0 {
		return []Cause{e.added(i)}, e.after(i, nil)
	}
	o := &e.old.Steps[j]
	own = e.self(s, o)
	own = append(own, e.content(s, o)...)
	follows = e.after(i, o)
	if len(own) == 0 && len(follows) == 0 {
		if c, ok := e.unfound(s, o); ok {
			own = []Cause{c}
		}
	}
	return own, follows
}

// after names the steps from which it follows that step i is new. o is its counterpart, nil
// if it has none.
func (e *explainer) after(i int, o *Step) (out []Cause) {
	s := &e.now.Steps[i]
	seen := map[int]bool{}
	for n, in := range s.Inputs {
		if o != nil && in.Slot != "" && n < len(o.Inputs) && in.Slot == o.Inputs[n].Slot {
			continue
		}
		for _, from := range e.visible(in.Step) {
			f := &e.now.Steps[from]
			if seen[from] || !f.own() {
				continue
			}
			seen[from] = true
			c := Cause{Kind: Follows, Subject: f.Name, Text: "it follows from " + f.Name}
			switch f.State {
			case Ran, Unknown:
				if e.evictedOnly(from) && o != nil {
					continue
				}
			default:
				why := e.others[from]
				if len(why) == 0 {
					continue
				}
				c.Text += ", which was cached, but differs: " + why[0].Text
			}
			out = append(out, c)
		}
	}
	if o != nil && len(out) == 0 {
		out = e.removed(s, o)
	}
	return out
}

// visible is step i, or, if it only prepares others, what it is made from.
func (e *explainer) visible(i int) (out []int) {
	s := &e.now.Steps[i]
	if s.own() || s.Local != 0 {
		return []int{i}
	}
	for _, in := range s.Inputs {
		out = append(out, e.visible(in.Step)...)
	}
	return out
}

// evictedOnly reports whether step i ran although nothing about it is new: what is made
// from it keeps its key.
func (e *explainer) evictedOnly(i int) bool {
	sr := e.reports[i]
	return sr != nil && len(sr.Causes) > 0 && sr.Causes[0].Kind == Evicted
}

// had is the newest earlier build whose step had the same key and a result, or nil.
func (e *explainer) had(s *Step) *found {
	if s.Key == "" || s.Stamped {
		return nil
	}
	for _, t := range e.earlier {
		if t.Build == e.now.Build && t.Build != "" {
			continue
		}
		for j := range t.Steps {
			o := &t.Steps[j]
			if o.Key == s.Key && len(o.Layers) > 0 {
				return &found{t, o}
			}
		}
	}
	return nil
}

type found struct {
	t *Trace
	s *Step
}

// removed tells that the step before o is gone, so that s is made from another.
func (e *explainer) removed(s, o *Step) (out []Cause) {
	kept := map[int]bool{}
	for _, j := range e.pairs {
		if j >= 0 {
			kept[j] = true
		}
	}
	for n, in := range o.Inputs {
		if n < len(s.Inputs) && s.Inputs[n].Slot == in.Slot && in.Slot != "" {
			continue
		}
		if f := &e.old.Steps[in.Step]; f.own() && !kept[in.Step] {
			out = append(out, Cause{Kind: Removed, Subject: f.Name, Text: "the instruction before it was removed: " + f.Text()})
		}
	}
	return out
}

// Edges are the pairs of steps of r, by their indexes, of which the second is made from the
// first.
func Edges(t *Trace, r *Report) (out [][2]int) {
	index := map[int]int{}
	for n, s := range r.Steps {
		index[s.Step] = n
	}
	e := &explainer{now: t}
	for n, s := range r.Steps {
		seen := map[int]bool{}
		for _, in := range t.Steps[s.Step].Inputs {
			for _, from := range e.visible(in.Step) {
				if m, ok := index[from]; ok && !seen[m] {
					seen[m] = true
					out = append(out, [2]int{m, n})
				}
			}
		}
	}
	return out
}
