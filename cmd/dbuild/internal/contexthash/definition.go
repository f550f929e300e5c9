package contexthash

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	digest "github.com/opencontainers/go-digest"
)

// A Definition is all that a client says about what is to be built.
type Definition struct {
	Context    digest.Digest
	Named      map[string]string // other contexts: the digest of a directory, the reference of anything else
	Dockerfile digest.Digest     // of its bytes
	Target     string            // "" is the last stage
	BuildArgs  map[string]string
	Platforms  []string // none is the platform of the daemon
	Frontend   string
}

const definitionHeader = "dbuild definition v1\n"

// Digest returns the digest of d.
func (d Definition) Digest() digest.Digest {
	h := sha256.New()
	h.Write([]byte(definitionHeader))
	field := func(key, value string) { fmt.Fprintf(h, "%s %d %s\n", key, len(value), value) }
	field("context", d.Context.String())
	for _, name := range slices.Sorted(maps.Keys(d.Named)) {
		field("named", name)
		field("is", d.Named[name])
	}
	field("dockerfile", d.Dockerfile.String())
	field("target", d.Target)
	for _, name := range slices.Sorted(maps.Keys(d.BuildArgs)) {
		field("build-arg", name)
		field("is", d.BuildArgs[name])
	}
	for _, p := range slices.Sorted(slices.Values(d.Platforms)) {
		field("platform", p)
	}
	field("frontend", d.Frontend)
	return digest.NewDigest(digest.SHA256, h)
}
