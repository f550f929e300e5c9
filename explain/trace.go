package explain

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// MediaType is that of an encoded Trace.
const MediaType = "application/vnd.dbuild.trace.v1+json+gzip"

// version is that of the encoding; others are not read.
const version = 1

// Bounds of a Trace.
const (
	// MaxFiles is how many files of a directory are kept. Of a directory that has more, none.
	MaxFiles = 20_000
	maxSteps = 5_000
	maxText  = 256 << 10 // bytes of a Dockerfile or an ignore file
	maxValue = 200       // bytes of a value that is kept as it is
	maxTrace = 64 << 20  // bytes of one that is read
)

// A Trace is what a build consisted of, and what became of it.
type Trace struct {
	Version int
	Build   string    // the ref
	Started time.Time // in UTC
	Ended   time.Time
	// Project tells what is built: builds with the same one are likely to be related.
	Project Project
	Args    map[string]string `json:",omitempty"` // build arguments
	NoCache string            `json:",omitempty"` // stages, separated by commas; "*" is all
	Imports []string          `json:",omitempty"` // caches that the build brought along
	Steps   []Step            // inputs before their readers
	Files   []Text            `json:",omitempty"` // that Steps' places point into
	Ignores []Text            `json:",omitempty"` // ignore files
	Locals  []Local           `json:",omitempty"` // directories of the client
	// Removals are what was removed from the cache lately, the last first.
	Removals []Removal `json:",omitempty"`
}

// A Project is what a build was of.
type Project struct {
	Frontend, Context, File, Target, Owner string
}

// A Text is a file of the client that says how to build.
type Text struct {
	Name, Text string
}

// A Local is what a directory of the client had, as far as it was sent.
type Local struct {
	Name  string
	Sum   string
	Count int
	Files []File `json:",omitempty"` // sorted by path; nil if there are more than MaxFiles
}

// A File is one of a directory. Its JSON form is a list.
type File struct {
	Path string
	Mode string // as ls -l shows it, with the owner if that is not root
	Sum  string // of the content, shortened; of a link its target
}

// A Removal is one time that results were removed from the cache.
type Removal struct {
	At     time.Time
	By     string   // "dbuild prune"
	All    bool     `json:",omitempty"` // everything that was remembered, too
	Layers []string `json:",omitempty"` // shortened ids, see Short
}

// A State is what became of a step.
type State string

// States of a step. Of a plan they are what would become of it.
const (
	Hit     State = "hit"     // found in the cache
	Covered State = "covered" // not needed: something made from it was found
	Ran     State = "ran"     // made, or tried in vain
	Unknown State = "unknown" // of a plan: it depends on what earlier steps will make
	Idle    State = "idle"    // never needed, or the build ended before
)

// A Step is one operation.
type Step struct {
	Digest string // of the operation
	Name   string // as progress shows it
	Kind   string // source, exec, file, merge, diff, build, passthrough
	Place  *Place `json:",omitempty"`
	State  State
	Time   int64 `json:",omitempty"` // it took to run, in milliseconds; 0 if it did not or that is not known
	// NoCache says that the step itself was not to be looked up, Stamped that it or what
	// it is made from was not.
	NoCache, Stamped bool     `json:",omitempty"`
	Spec             string   `json:",omitempty"` // identifies the step apart from its inputs
	Key              string   `json:",omitempty"` // identifies its result
	Pin              string   `json:",omitempty"` // of a source: what its name meant
	Facts            []Fact   `json:",omitempty"`
	Inputs           []Input  `json:",omitempty"`
	Layers           []string `json:",omitempty"` // of its first result, shortened ids
	Local            int      `json:",omitempty"` // of a directory: 1 + index of Trace.Locals
}

// A Place is where a step is written.
type Place struct {
	File       int // index of Trace.Files
	Start, End int // lines, from 1
}

// A Fact is one thing that a step consists of.
type Fact struct {
	Kind  string
	Name  string `json:",omitempty"`
	Value string `json:",omitempty"`
}

// An Input is what a step reads of another.
type Input struct {
	Step   int    // index of Trace.Steps
	Output int    `json:",omitempty"`
	Slot   string `json:",omitempty"` // how it entered the key of the step; "" if not known
	Parts  []Part `json:",omitempty"` // that were read by content; nil if it was read by key
}

// A Part is which files of an input are read.
type Part struct {
	Path             string
	Wildcard         bool     `json:",omitempty"`
	Include, Exclude []string `json:",omitempty"`
}

// Short is how layers are named in a Trace.
func Short(id string) string {
	const n = 16
	if len(id) > n {
		return id[len(id)-n:]
	}
	return id
}

// MarshalJSON makes lists of files short.
func (f File) MarshalJSON() ([]byte, error) { return json.Marshal([3]string{f.Path, f.Mode, f.Sum}) }

// UnmarshalJSON reads what MarshalJSON wrote.
func (f *File) UnmarshalJSON(b []byte) error {
	var list [3]string
	if err := json.Unmarshal(b, &list); err != nil {
		return err
	}
	f.Path, f.Mode, f.Sum = list[0], list[1], list[2]
	return nil
}

// Encode returns t as it is kept.
func (t *Trace) Encode() ([]byte, error) {
	t.Version = version
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if err := json.NewEncoder(z).Encode(t); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// Decode reads what Encode wrote.
func Decode(b []byte) (*Trace, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, fmt.Errorf("trace of a build: %w", err)
	}
	t := &Trace{}
	if err := json.NewDecoder(io.LimitReader(z, maxTrace)).Decode(t); err != nil {
		return nil, fmt.Errorf("trace of a build: %w", err)
	}
	if t.Version != version {
		return nil, fmt.Errorf("trace of a build: it is of version %d, which is not known here", t.Version)
	}
	return t, t.check()
}

// check sees to it that indexes are in range and that inputs come first.
func (t *Trace) check() error {
	bad := func(i int) error { return fmt.Errorf("trace of a build: step %d is damaged", i) }
	for i, s := range t.Steps {
		if s.Local < 0 || s.Local > len(t.Locals) {
			return bad(i)
		}
		if p := s.Place; p != nil && (p.File < 0 || p.File >= len(t.Files)) {
			return bad(i)
		}
		for _, in := range s.Inputs {
			if in.Step < 0 || in.Step >= i {
				return bad(i)
			}
		}
	}
	return nil
}
