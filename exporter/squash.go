package exporter

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dbuild/dbuild/internal/exportrecord"
	"github.com/dbuild/dbuild/internal/snapshot"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// squashedBy says in the history of an image how its last layer came to be.
const squashedBy = "squash"

// Squash returns src as an exporter with the options o takes it. If o asks for that, the
// layers that the build added to the base image are one; the base's stay, so that they are
// still shared. The steps are cached as they are. release gives the new layers up.
func Squash(ctx context.Context, src Source, a Access, o ImageOptions) (_ Source, release func(), err error) {
	if !o.Squash {
		return src, func() {}, nil
	}
	src = o.override(src)
	var made []*snapshot.Ref
	release = func() {
		for _, r := range made {
			r.Release()
		}
	}
	defer func() {
		if err != nil {
			release()
		}
	}()
	parts, err := src.Parts()
	if err != nil {
		return src, nil, err
	}
	src.Metadata, src.Platforms = maps.Clone(src.Metadata), slices.Clone(src.Platforms)
	if src.Metadata == nil {
		src.Metadata = map[string][]byte{}
	}
	// They speak of the layers by number.
	src.Inline, src.Recall = nil, nil
	for i, p := range parts {
		if p.Ref == nil {
			continue
		}
		var base ocispec.Image
		if b := src.Value(KeyBaseConfig, p); len(b) > 0 {
			if err := json.Unmarshal(b, &base); err != nil {
				return src, nil, fmt.Errorf("the config of the base image: %w", err)
			}
		}
		keep := p.Ref.Begins(base.RootFS.DiffIDs)
		line := a.Log.Track("squashing layers")
		one, err := p.Ref.Squash(ctx, snapshot.Access{Group: a.Group, Log: a.Log}, keep, snapshot.Desc{Description: squashedBy})
		if err != nil {
			return src, nil, err
		}
		line.Done()
		made = append(made, one)
		if one.ID() == p.Ref.ID() {
			continue
		}
		config := src.Value(KeyConfig, p)
		if len(config) > 0 {
			var lost bool
			if config, lost, err = squashConfig(config, base, keep); err != nil {
				return src, nil, err
			}
			if lost {
				a.Log.Warn(diffLost)
			}
			src.Metadata[KeyConfig+"/"+p.ID] = config
		}
		if src.Multi() {
			src.Platforms[i].Ref = one
		} else {
			src.Ref = one
		}
	}
	return src, release, nil
}

// squashConfig rewrites the history of an image whose layers above the lowest keep have
// become one: the steps above the base's have no layer any more, but a last entry has. What
// the image says it exports is lost if it counts layers that are not there any more.
func squashConfig(config []byte, base ocispec.Image, keep int) (_ []byte, lost bool, err error) {
	var img ocispec.Image
	if err := json.Unmarshal(config, &img); err != nil {
		return nil, false, fmt.Errorf("the image config: %w", err)
	}
	// The base's history need not have an entry for each of its layers.
	first := len(base.History)
	byLayer := keep < len(base.RootFS.DiffIDs) || first == 0 || first > len(img.History)
	var last *time.Time
	filled := 0
	for i := range img.History {
		h := &img.History[i]
		if byLayer && filled >= keep || !byLayer && i >= first {
			h.EmptyLayer = true
		}
		if !h.EmptyLayer {
			filled++
		}
		if h.Created != nil {
			last = h.Created
		}
	}
	if len(img.History) > 0 {
		img.History = append(img.History, ocispec.History{Created: last, CreatedBy: squashedBy, Comment: addedBy})
	}
	if config, err = setFields(config, map[string]any{"history": img.History}); err != nil {
		return nil, false, err
	}
	entries, err := exportrecord.Decode(img.Config.Labels[exportrecord.Label])
	if err == nil && slices.ContainsFunc(entries, func(e exportrecord.Entry) bool { return e.Kind == exportrecord.Diff && e.Base > keep }) {
		return withoutDiffs(config, img)
	}
	return config, false, nil
}
