package llb

import (
	"encoding/json"
	"maps"
	"path"
	"strings"
)

// Keys of Meta.Description that a Reads is written to.
const (
	descReads   = "dbuild.reads"   // of a file op; of an exec op with ":TARGET" of the mount
	descIgnored = "dbuild.ignored" // the same
)

// BuildContext is the Place of the directory that a build is given.
const BuildContext = "the build context"

// A Reads is what a frontend says about the files that a step reads, so that an error
// about one that is missing can name things as the user did. It is not part of the op, and
// builders that do not know it ignore it.
type Reads struct {
	Keyword string // "COPY"
	Place   string // `stage "build"`
	// Ignored are paths, with a leading slash, that an ignore file leaves out: by what.
	Ignored map[string]string
}

// Describe adds r to the description of a file op, or of the mount at target of an exec.
func (r Reads) Describe(description map[string]string, target string) {
	description[readsKey(descReads, target)] = r.Keyword + " " + r.Place
	if len(r.Ignored) > 0 {
		js, _ := json.Marshal(r.Ignored) // of strings
		description[readsKey(descIgnored, target)] = string(js)
	}
}

// ReadsOf is the Reads that was added to a description, zero if none was.
func ReadsOf(description map[string]string, target string) (r Reads) {
	r.Keyword, r.Place, _ = strings.Cut(description[readsKey(descReads, target)], " ")
	if js := description[readsKey(descIgnored, target)]; js != "" {
		_ = json.Unmarshal([]byte(js), &r.Ignored) // only words are at stake
	}
	return r
}

// Or adds what other knows of the same place.
func (r Reads) Or(other Reads) Reads {
	if r.Keyword == "" {
		return other
	}
	if len(other.Ignored) > 0 {
		all := maps.Clone(other.Ignored)
		maps.Copy(all, r.Ignored)
		r.Ignored = all
	}
	return r
}

// Written is a path of the place as users write it: contexts have no root.
func (r Reads) Written(p string) string {
	if r.Place == BuildContext || strings.HasPrefix(r.Place, "context ") {
		return strings.TrimPrefix(p, "/")
	}
	return path.Join("/", p)
}

func readsKey(key, target string) string {
	if target == "" {
		return key
	}
	return key + ":" + target
}
