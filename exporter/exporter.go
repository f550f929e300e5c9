// Package exporter carries the result of a build out of the daemon.
package exporter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	bksession "github.com/moby/buildkit/session"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Exporter carries a result out. It is good for one export.
type Exporter interface {
	// Name is what the display calls the step: "exporting to image".
	Name() string
	// Export returns when everything has arrived. The response holds keys that clients
	// of BuildKit know ("containerimage.digest"). The refs stay the caller's.
	Export(ctx context.Context, src Source, a Access) (response map[string]string, err error)
}

// Access is on whose behalf an export happens, and where to show it.
type Access struct {
	Group      bksession.Group // whose credentials may be used
	SessionIDs []string        // the client's sessions; files go to the first that takes them
	Log        *progress.Log   // may be nil
	Made       func(*Image)    // told of an image when it has been exported; may be nil
}

// A Source is a result: one Ref, or one for each of several platforms. A nil Ref is an
// empty filesystem.
type Source struct {
	Ref       *snapshot.Ref
	Platforms []Platform        // in the order the frontend gave; nil for a single Ref
	Metadata  map[string][]byte // see the Key constants
	// Attestations are about the parts of the result, by platform id.
	Attestations map[string][]Attestation
	Inline       InlineCache // nil: images carry no cache
	Recall       Recall      // nil: the image store remembers no cache
}

// An InlineCache returns what the image of a part of the result carries of the build's
// cache, or nil.
type InlineCache func(context.Context, Platform) ([]byte, error)

// A Recall returns what the image store remembers beside an image of how it was made, or
// nil: with that, the image serves as a cache though it carries none.
type Recall func(context.Context, *Image) ([]byte, error)

// A Platform is one part of a multi-platform result.
type Platform struct {
	ID       string // names it in metadata keys: "linux/arm64"
	Platform ocispec.Platform
	Ref      *snapshot.Ref `json:"-"`
}

// PlatformList is the JSON value of KeyPlatforms.
type PlatformList struct{ Platforms []Platform }

// Metadata keys that exporters read. Those marked with * exist for each platform, with
// "/<platform id>" appended.
const (
	KeyPlatforms   = "refs.platforms"
	KeyConfig      = "containerimage.config"      // *
	KeyBaseConfig  = "containerimage.base.config" // *
	KeyInlineCache = "containerimage.inlinecache" // *
	KeyEpoch       = "source.date.epoch"          // *
	KeyImageName   = "image.name"
)

// Response keys.
const (
	RespDigest       = "containerimage.digest"
	RespConfigDigest = "containerimage.config.digest"
	RespDescriptor   = "containerimage.descriptor"
	RespName         = "image.name"
)

// Multi reports whether the result has several platforms, or says so of its one.
func (s Source) Multi() bool { return len(s.Platforms) > 0 }

func checkPlatform(p Platform) error {
	if p.ID == "" {
		return errors.New("invalid empty platform key for exporter")
	}
	if p.Platform.OS == "" || p.Platform.Architecture == "" {
		return fmt.Errorf("invalid platform value of the result's part %s: it needs an os and an architecture", p.ID)
	}
	return nil
}

// Parts returns the refs with their platforms: those of a multi-platform result, or the
// single one with the platform of its image config, or of this machine.
func (s Source) Parts() ([]Platform, error) {
	if s.Multi() {
		out := make([]Platform, len(s.Platforms))
		for i, p := range s.Platforms {
			if err := checkPlatform(p); err != nil {
				return nil, err
			}
			p.Platform = platforms.Normalize(p.Platform)
			out[i] = p
		}
		return out, nil
	}
	if b, ok := s.Metadata[KeyPlatforms]; ok && len(b) > 0 {
		var l PlatformList
		if err := json.Unmarshal(b, &l); err != nil {
			return nil, fmt.Errorf("the list of platforms of the result: %w", err)
		}
		if len(l.Platforms) == 0 {
			return nil, errors.New("invalid empty platforms index for exporter: the result has a filesystem, but is for none")
		}
		if len(l.Platforms) != 1 {
			return nil, fmt.Errorf("the result is one filesystem for %d platforms", len(l.Platforms))
		}
		p := l.Platforms[0]
		if err := checkPlatform(p); err != nil {
			return nil, err
		}
		p.Platform, p.Ref = platforms.Normalize(p.Platform), s.Ref
		return []Platform{p}, nil
	}
	p := platforms.DefaultSpec()
	if b := s.Metadata[KeyConfig]; len(b) > 0 {
		var img *ocispec.Image
		if err := json.Unmarshal(b, &img); err != nil {
			return nil, fmt.Errorf("the image config of the result: %w", err)
		}
		if img == nil {
			return nil, errors.New("invalid null image config for export")
		}
		if (img.OS == "") != (img.Architecture == "") {
			return nil, errors.New("invalid image config: os and architecture must be specified together")
		}
		if img.OS != "" {
			p = img.Platform
		}
	}
	p = platforms.Normalize(p)
	return []Platform{{ID: platforms.FormatAll(p), Platform: p, Ref: s.Ref}}, nil
}

// Value returns the metadata of a platform under key, or else that of the whole result.
func (s Source) Value(key string, p Platform) []byte {
	if v, ok := s.Metadata[key+"/"+p.ID]; ok {
		return v
	}
	return s.Metadata[key]
}
