package explain

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// sortedKeys are the keys of m.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// place matches what names of steps begin with: "[linux/arm64 build 2/4] ".
var place = regexp.MustCompile(`^\[(?:(\S+/\S+) )?(?:(\S+) +)?\d+/\d+\] (.*)$`)

// stage is the platform and the name of the stage that a step is in, and the rest of its
// name. Platforms are there only if a build is for several.
func (s *Step) stage() (platform, stage, text string) {
	m := place.FindStringSubmatch(s.Name)
	if m == nil {
		return "", "", s.Name
	}
	return m[1], m[2], m[3]
}

// Text is what a step does, without where it is.
func (s *Step) Text() string {
	_, _, text := s.stage()
	return text
}

// keyword is what kind of instruction a step is.
func (s *Step) keyword() string {
	word, _, _ := strings.Cut(s.Text(), " ")
	return s.Kind + " " + word
}

// source is the text of the instruction of a step in its file, or its name if it has none:
// the values of variables are in names, but not in instructions.
func (t *Trace) source(s *Step) string {
	p := s.Place
	if p == nil || s.Kind == "source" && strings.HasPrefix(s.Text(), "[") {
		return s.Text()
	}
	lines := strings.Split(t.Files[p.File].Text, "\n")
	if p.Start < 1 || p.End < p.Start || p.End > len(lines) {
		return s.Text()
	}
	return strings.Join(lines[p.Start-1:p.End], "\n")
}

// own reports whether a step is of interest by itself. What only prepares others is not.
func (s *Step) own() bool {
	return !strings.HasPrefix(s.Name, "[internal]") && s.Local == 0
}

// groups are the indexes of steps by platform and stage.
func (t *Trace) groups() map[[2]string][]int {
	out := map[[2]string][]int{}
	for i := range t.Steps {
		p, st, _ := t.Steps[i].stage()
		k := [2]string{p, st}
		out[k] = append(out[k], i)
	}
	return out
}

// align pairs the steps of a build with those of an earlier one: -1 has no counterpart.
func align(now, old *Trace) []int {
	pairs := make([]int, len(now.Steps))
	taken := make([]bool, len(old.Steps))
	for i := range pairs {
		pairs[i] = -1
	}
	olds := old.groups()
	nows := now.groups()
	for k, list := range nows {
		theirs, ok := olds[k]
		if !ok {
			theirs = related(olds, nows, k)
		}
		for i, j := range match(now, old, list, theirs) {
			if j >= 0 && !taken[j] {
				pairs[list[i]], taken[j] = j, true
			}
		}
	}
	return pairs
}

// related is the group of another build that most likely became k: the same stage for
// another platform.
func related(olds, nows map[[2]string][]int, k [2]string) []int {
	var found []int
	for _, o := range slices.SortedFunc(maps.Keys(olds), func(a, b [2]string) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) }) {
		if o[1] == k[1] && nows[o] == nil {
			found = olds[o]
		}
	}
	return found
}

// match pairs two lists of steps that are in order: first those whose text is the same,
// then, between these, those of the same kind.
func match(now, old *Trace, a, b []int) []int {
	at := make([]string, len(a))
	bt := make([]string, len(b))
	for i, s := range a {
		at[i] = now.Steps[s].Kind + now.source(&now.Steps[s])
	}
	for j, s := range b {
		bt[j] = old.Steps[s].Kind + old.source(&old.Steps[s])
	}
	out := common(at, bt)
	next := 0
	for i := 0; i < len(a); {
		if out[i] >= 0 {
			next = out[i] + 1
			i++
			continue
		}
		end := i
		for end < len(a) && out[end] < 0 {
			end++
		}
		limit := len(b)
		if end < len(a) {
			limit = out[end]
		}
		for ; i < end; i++ {
			for j := next; j < limit; j++ {
				if now.Steps[a[i]].keyword() == old.Steps[b[j]].keyword() && alike(at[i], bt[j], end-i, limit-j) {
					out[i], next = j, j+1
					break
				}
			}
		}
	}
	for i, j := range out {
		if j >= 0 {
			out[i] = b[j]
		}
	}
	return out
}

// alike decides whether one instruction became another: if as many are left on both sides,
// or if most words are the same.
func alike(a, b string, left, right int) bool {
	if left <= right {
		return true
	}
	words := map[string]bool{}
	for _, w := range strings.Fields(a) {
		words[w] = true
	}
	same, all := 0, strings.Fields(b)
	for _, w := range all {
		if words[w] {
			same++
		}
	}
	return 2*same > max(len(all), len(words))
}

// common is a longest common subsequence: for each of a, its index in b or -1.
func common(a, b []string) []int {
	out := make([]int, len(a))
	for i := range out {
		out[i] = -1
	}
	// What the two begin with is the same most of the time.
	start := 0
	for start < len(a) && start < len(b) && a[start] == b[start] {
		out[start] = start
		start++
	}
	a, b = a[start:], b[start:]
	const most = 2000
	if len(a) > most || len(b) > most {
		return out
	}
	best := make([][]int32, len(a)+1)
	for i := range best {
		best[i] = make([]int32, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				best[i][j] = best[i+1][j+1] + 1
			} else {
				best[i][j] = max(best[i+1][j], best[i][j+1])
			}
		}
	}
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i] == b[j]:
			out[start+i] = start + j
			i, j = i+1, j+1
		case best[i+1][j] >= best[i][j+1]:
			i++
		default:
			j++
		}
	}
	return out
}

// nearest is the earlier build that is most like t; earlier are the newest first. Nil if
// none is like it.
func nearest(t *Trace, earlier []*Trace) *Trace {
	want := map[string]int{}
	n := 0
	for i := range t.Steps {
		if s := &t.Steps[i]; s.own() {
			want[t.source(s)]++
			n++
		}
	}
	var found *Trace
	best := -1.0
	for _, e := range earlier {
		if e.Build == t.Build && t.Build != "" {
			continue
		}
		have := maps.Clone(want)
		same, all := 0, 0
		for i := range e.Steps {
			s := &e.Steps[i]
			if !s.own() {
				continue
			}
			all++
			if text := e.source(s); have[text] > 0 {
				have[text]--
				same++
			}
		}
		score := 0.0
		if m := max(all, n); m > 0 {
			score = float64(same) / float64(m)
		}
		if e.Project == t.Project {
			score += 0.6 // the newest build of the same is what people have in mind
		} else if e.Project.Context == t.Project.Context && e.Project.File == t.Project.File && e.Project.Owner == t.Project.Owner {
			score += 0.5
		}
		if score < 0.3 {
			continue
		}
		if found == nil || score > best+0.25 {
			found, best = e, score
		}
	}
	return found
}
