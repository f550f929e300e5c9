package buildflags

import (
	"slices"
	"strings"
)

// buildIDToken is what users write in a name for the digest of the context. Until that is
// known, buildIDPlace stands in its place: a name must be valid to be checked.
const (
	buildIDToken = "%BUILDID%"
	buildIDPlace = "b011d1d0b011d1d0b011d1d0b011d1d0b011d1d0"
)

func withPlace(name string) string { return strings.ReplaceAll(name, buildIDToken, buildIDPlace) }

// facts decides whether it must be found out what the contexts are.
func (f *Flags) facts(r *Request, _ Env) error {
	r.NamesBuildID = slices.ContainsFunc(r.Exports, func(e Export) bool { return strings.Contains(e.Attrs["name"], buildIDPlace) })
	r.WantsFacts = r.Call.Method == "" && (r.NamesBuildID || f.BIDFile != "" || f.MetadataFile != "")
	return nil
}

// SetBuildID puts the digest of the context, as far as it is used in names, where the user
// wrote %BUILDID%: 40 hexadecimal digits.
func (r *Request) SetBuildID(hex string) {
	for _, e := range r.Exports {
		if name, ok := e.Attrs["name"]; ok {
			e.Attrs["name"] = strings.ReplaceAll(name, buildIDPlace, hex[:len(buildIDPlace)])
		}
	}
}
