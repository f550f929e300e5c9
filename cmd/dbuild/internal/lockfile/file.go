package lockfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
)

// maxSize is that of the largest lock that is read, in bytes.
const maxSize = 16 << 20

// A File is a lock: what sources are pinned to, by their name in the lock.
type File struct {
	pins map[string]pin
}

// A pin is what a source is converted to.
type pin struct {
	identifier string
	attrs      map[string]string
}

// New returns a lock without pins.
func New() *File { return &File{pins: map[string]pin{}} }

// Read reads a lock. That there is none is an os.ErrNotExist.
func Read(path string) (*File, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if fi.Size() > maxSize {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxSize)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s is not a lock: %w", path, err)
	}
	return f, nil
}

// Parse reads the text of a lock.
func Parse(text []byte) (*File, error) {
	policy := &spb.Policy{}
	if err := json.Unmarshal(text, policy); err != nil {
		return nil, err
	}
	if policy.Version > 1 {
		return nil, fmt.Errorf("it has version %d, this program knows version 1", policy.Version)
	}
	f := New()
	for n, r := range policy.Rules {
		id := r.GetSelector().GetIdentifier()
		to := pin{identifier: r.GetUpdates().GetIdentifier(), attrs: r.GetUpdates().GetAttrs()}
		switch {
		case r.GetAction() != spb.PolicyAction_CONVERT:
			return nil, fmt.Errorf("rule %d is no conversion", n+1)
		case id == "" || to.identifier == "":
			return nil, fmt.Errorf("rule %d does not say what becomes of what", n+1)
		case len(r.Selector.Constraints) > 0 || r.Selector.MatchType == spb.MatchType_REGEX:
			return nil, fmt.Errorf("rule %d is not about one source", n+1)
		case !isPinned(&pb.SourceOp{Identifier: to.identifier, Attrs: to.attrs}):
			return nil, fmt.Errorf("rule %d pins %s to nothing: a digest, a checksum or a commit is missing", n+1, id)
		}
		if _, twice := f.pins[id]; twice {
			return nil, fmt.Errorf("it names %s twice", id)
		}
		f.pins[id] = to
	}
	return f, nil
}

// JSON is the text of the lock: the same for the same pins.
func (f *File) JSON() ([]byte, error) {
	policy := &spb.Policy{Version: 1, Rules: []*spb.Rule{}}
	for _, id := range f.Names() {
		to := f.pins[id]
		s := &spb.Selector{Identifier: id}
		if strings.Contains(to.identifier, "$") && !strings.Contains(id, hiddenUser) {
			s.MatchType = spb.MatchType_EXACT // elsewhere $ has a meaning
		}
		policy.Rules = append(policy.Rules, &spb.Rule{
			Action: spb.PolicyAction_CONVERT, Selector: s, Updates: &spb.Update{Identifier: to.identifier, Attrs: to.attrs},
		})
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(policy)
	return out.Bytes(), err
}

// Names are the names of the sources, sorted.
func (f *File) Names() []string { return slices.Sorted(maps.Keys(f.pins)) }

// Match returns the names that a pattern means, in which * stands for any text. An image may
// be named as in a Dockerfile, with or without its tag, other sources by their URL.
func (f *File) Match(pattern string) ([]string, error) {
	match, err := compile(pattern)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, id := range f.Names() {
		if slices.ContainsFunc(spellings(id), match.MatchString) {
			out = append(out, id)
		}
	}
	if len(out) == 0 {
		return nil, &UnknownError{Pattern: pattern, Names: f.shown()}
	}
	return out, nil
}

// An UnknownError says that a pattern matches nothing in a lock.
type UnknownError struct {
	Pattern string
	Names   []string // what there is, as people write it
}

func (e *UnknownError) Error() string {
	if len(e.Names) == 0 {
		return fmt.Sprintf("nothing matches %q: the lock is empty", e.Pattern)
	}
	return fmt.Sprintf("nothing matches %q; the lock has %s", e.Pattern, strings.Join(e.Names, ", "))
}

func (f *File) shown() []string {
	var out []string
	for _, id := range f.Names() {
		out = append(out, Shown(id))
	}
	return out
}

// Changes says how the lock differs from an older one, a line for each source.
func (f *File) Changes(old *File) []string {
	var out []string
	for _, id := range f.Names() {
		before, had := old.pins[id]
		now := f.pins[id]
		switch {
		case !had:
			out = append(out, fmt.Sprintf("added %s: %s", Shown(id), now))
		case before.String() != now.String():
			out = append(out, fmt.Sprintf("changed %s: %s, was %s", Shown(id), now, before))
		}
	}
	for _, id := range old.Names() {
		if _, ok := f.pins[id]; !ok {
			out = append(out, "removed "+Shown(id))
		}
	}
	return out
}

// errNoPin is what a source comes to that the daemon could not pin.
var errNoPin = errors.New("the daemon did not say what it is now")
