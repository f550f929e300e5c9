package buildkit

import (
	"net/http"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// source is the step of a source with a key.
func source(key string) Step { return Step{Digest: digest.FromString("buildkit.source.v0:" + key)} }

// Image identifies an image by what its name led to, which may be an index. limit is how
// many of its layers are taken; -1 is all.
func Image(d digest.Digest, p *pb.Platform, limit int) (Step, error) {
	pl := normal(p)
	var n *int
	if limit >= 0 {
		n = &limit
	}
	key, err := identity(struct {
		Digest     digest.Digest
		OS         string
		Arch       string
		Variant    string   `json:",omitempty"`
		OSVersion  string   `json:",omitempty"`
		OSFeatures []string `json:",omitempty"`
		Limit      *int     `json:",omitempty"`
	}{d, pl.OS, pl.Architecture, pl.Variant, pl.OSVersion, pl.OSFeatures, n})
	return source(key.String()), err
}

// An HTTPFile is what BuildKit takes to be the same download.
type HTTPFile struct {
	Name             string
	Mode, UID, GID   int // the zero Mode is the default
	Digest           digest.Digest
	ModTime          *time.Time // as the server said, if it was asked
	AuthHeaderSecret string
	Header           []HTTPHeader // by name
}

// An HTTPHeader is a header that the request had.
type HTTPHeader struct{ Name, Value string }

// HTTP identifies a download.
func HTTP(f HTTPFile) (Step, error) {
	modified := ""
	if f.ModTime != nil {
		modified = f.ModTime.Format(http.TimeFormat)
	}
	key, err := identity(struct {
		Filename         string
		Perm, UID, GID   int
		Checksum         digest.Digest
		LastModTime      string       `json:",omitempty"`
		AuthHeaderSecret string       `json:",omitempty"`
		Header           []HTTPHeader `json:",omitempty"`
	}{f.Name, f.Mode, f.UID, f.GID, f.Digest, modified, f.AuthHeaderSecret, f.Header})
	return source(key.String()), err
}

// A GitTree is what BuildKit takes to be the same checkout.
type GitTree struct {
	ID             string // commit, or a tag object if the history is kept
	Ref            string // full name, or the commit
	Subdir         string
	KeepGitDir     bool
	SkipSubmodules bool
	CommitTime     bool
	Bundle         bool // a bundle file instead of files
}

// Git identifies a checkout.
func Git(t GitTree) Step {
	key := t.ID
	if t.KeepGitDir {
		key += ".git"
		if t.Ref != "" {
			key += "#" + t.Ref
		}
	}
	if t.Subdir != "" {
		key += ":" + t.Subdir
	}
	if t.SkipSubmodules {
		key += "(skip-submodules)"
	}
	if t.CommitTime {
		key += "(mtime=commit)"
	}
	if t.Bundle {
		key += "(bundle)"
	}
	return source(key)
}
