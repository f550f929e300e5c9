package exportrecord

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// Label is the key of the image label.
const Label = "dev.dbuild.exports.v1"

// Version is what is written and read.
const Version = 1

// Limits of a record.
const (
	MaxBytes   = 64 << 10
	MaxEntries = 512
)

// DefaultGroup is the group of entries that name none.
const DefaultGroup = "default"

// A Kind says what an entry exports.
type Kind string

// The kinds of entries.
const (
	Copy   Kind = "copy"
	Env    Kind = "env"
	Tag    Kind = "label"
	Expose Kind = "expose"
	Volume Kind = "volume"
	Run    Kind = "run"
	Diff   Kind = "diff"
)

// An Entry is one thing that an image exports. Which fields count depends on the Kind.
// They are in the order of their JSON names.
type Entry struct {
	Args    []string `json:"argv,omitempty"` // of a Run; one text in shell form
	Base    int      `json:"base,omitempty"` // of a Diff: how many layers it leaves out, the lowest
	Chmod   string   `json:"chmod,omitempty"`
	Chown   string   `json:"chown,omitempty"`
	Dest    string   `json:"dst,omitempty"`  // of a Copy: absolute
	Exclude []string `json:"excl,omitempty"` // of a Copy or Diff
	Group   string   `json:"g,omitempty"`    // "" is DefaultGroup
	Key     string   `json:"k,omitempty"`    // of an Env or a Label
	Mounts  []string `json:"mounts,omitempty"`
	Network string   `json:"net,omitempty"` // of a Run: "none" or ""
	Shell   bool     `json:"sh,omitempty"`  // a Run is in shell form
	Sources []string `json:"src,omitempty"` // of a Copy: absolute, may be patterns
	Kind    Kind     `json:"t"`
	// Value is that of an Env or a Label, in which variables of the importer are expanded
	// and a backslash takes the meaning of the next character away; the port or the path
	// of an Expose or a Volume.
	Value string `json:"v,omitempty"`
}

// InGroup is the entry's group by name.
func (e *Entry) InGroup() string {
	if e.Group == "" {
		return DefaultGroup
	}
	return e.Group
}

type record struct {
	Entries []Entry `json:"e"`
	Version int     `json:"v"`
}

// A VersionError is about a record that a later version has written.
type VersionError struct{ Version int }

func (e *VersionError) Error() string {
	return fmt.Sprintf("export record v%d, this frontend understands v%d", e.Version, Version)
}

// Encode is the label's value.
func Encode(entries []Entry) (string, error) {
	if len(entries) > MaxEntries {
		return "", fmt.Errorf("%d exports are too many, an image can have %d", len(entries), MaxEntries)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(record{entries, Version}); err != nil {
		return "", fmt.Errorf("encode exports: %w", err)
	}
	if b.Len()-1 > MaxBytes {
		return "", fmt.Errorf("the record of the exports has %d bytes, an image can have %d", b.Len()-1, MaxBytes)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// Decode reads a label's value. Fields that it does not know are nothing to it; kinds of
// entries that it does not know are an error.
func Decode(label string) ([]Entry, error) {
	if len(label) > MaxBytes {
		return nil, fmt.Errorf("the export record has %d bytes, more than %d", len(label), MaxBytes)
	}
	var head struct {
		Version int `json:"v"`
	}
	if err := json.Unmarshal([]byte(label), &head); err != nil {
		return nil, fmt.Errorf("the export record is not valid: %w", err)
	}
	if head.Version > Version {
		return nil, &VersionError{head.Version}
	}
	if head.Version < 1 {
		return nil, fmt.Errorf("the export record is not valid: version %d", head.Version)
	}
	var r record
	if err := json.Unmarshal([]byte(label), &r); err != nil {
		return nil, fmt.Errorf("the export record is not valid: %w", err)
	}
	if len(r.Entries) > MaxEntries {
		return nil, fmt.Errorf("the export record has %d entries, more than %d", len(r.Entries), MaxEntries)
	}
	for i := range r.Entries {
		if err := r.Entries[i].check(); err != nil {
			return nil, fmt.Errorf("entry %d of the export record: %w", i, err)
		}
	}
	return r.Entries, nil
}

var groupName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

// check finds what no importer could follow.
func (e *Entry) check() error {
	if e.Group != "" && !groupName.MatchString(e.Group) {
		return fmt.Errorf("invalid group %q", e.Group)
	}
	var ok bool
	switch e.Kind {
	case Copy:
		ok = len(e.Sources) > 0 && path.IsAbs(e.Dest)
		for _, s := range e.Sources {
			ok = ok && path.IsAbs(s)
		}
	case Env, Tag:
		ok = e.Key != "" && !strings.ContainsAny(e.Key, "=\x00")
	case Expose, Volume:
		ok = e.Value != ""
	case Run:
		ok = len(e.Args) > 0 && (!e.Shell || len(e.Args) == 1) && (e.Network == "" || e.Network == "none" || e.Network == "default")
	case Diff:
		ok = e.Base >= 0
	default:
		return fmt.Errorf("the kind %q is not known: it takes a newer dbuild", e.Kind)
	}
	if !ok {
		return fmt.Errorf("it is of the kind %s and makes no sense", e.Kind)
	}
	return nil
}

// WithoutDiffs is a label's value without the entries that count layers, for an image
// whose layers are not those that were counted. Lost says that there were such entries;
// empty, that no entry is left.
func WithoutDiffs(label string) (_ string, lost, empty bool) {
	entries, err := Decode(label)
	if err != nil {
		return label, false, false // not ours to touch
	}
	var kept []Entry
	for _, e := range entries {
		if e.Kind != Diff {
			kept = append(kept, e)
		}
	}
	if len(kept) == len(entries) {
		return label, false, len(kept) == 0
	}
	out, err := Encode(kept)
	if err != nil {
		return label, false, false
	}
	return out, true, len(kept) == 0
}
