package exporter

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/dbuild/dbuild/internal/snapshot"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// defaultPath is what a process finds its programs in if nobody said otherwise.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// addedBy is the comment of a history entry that is made up here. It is the same as
// BuildKit's, so that equal builds have equal digests.
const addedBy = "buildkit.exporter.image.v0"

// newConfig is the config of an image nobody wrote one for.
func newConfig(p ocispec.Platform) ([]byte, error) {
	img := ocispec.Image{Platform: p}
	img.RootFS.Type = "layers"
	img.Config.WorkingDir = "/"
	if p.OS != "windows" {
		img.Config.Env = []string{defaultPath}
	}
	return json.Marshal(img)
}

// A configInput is what the config of an exported image is made from.
type configInput struct {
	config      []byte // of the frontend
	base        []byte // config of the image it started from; may be nil
	layers      []snapshot.Blob
	epoch       *time.Time
	inlineCache []byte
}

// finishConfig fills in what only the exporter knows: diff IDs, a history that has one
// entry for each layer, and times no later than the epoch. Fields it does not know stay
// as they are.
func finishConfig(in configInput) ([]byte, error) {
	var img ocispec.Image
	if err := json.Unmarshal(in.config, &img); err != nil {
		return nil, fmt.Errorf("the image config: %w", err)
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(in.config, &fields); err != nil || fields == nil {
		return nil, errors.New("invalid null image config for export")
	}
	if img.OS == "" || img.Architecture == "" {
		return nil, errors.New("the image config names no os or no architecture")
	}
	var base ocispec.Image
	if len(in.base) > 0 {
		if err := json.Unmarshal(in.base, &base); err != nil {
			return nil, fmt.Errorf("the config of the base image: %w", err)
		}
	}
	history := alignHistory(img.History, in.layers)
	if in.epoch != nil {
		clampHistory(history, base.History, *in.epoch)
	}
	rootfs := ocispec.RootFS{Type: "layers"}
	for _, l := range in.layers {
		rootfs.DiffIDs = append(rootfs.DiffIDs, l.DiffID)
	}
	created := img.Created
	if _, ok := fields["created"]; !ok {
		for _, h := range history {
			if h.Created != nil {
				created = h.Created
			}
		}
	}
	if created != nil && in.epoch != nil && created.After(*in.epoch) {
		created = in.epoch
	}
	set := map[string]any{"rootfs": rootfs, "history": history}
	if _, ok := fields["created"]; !ok || (img.Created != nil && !created.Equal(*img.Created)) {
		set["created"] = created
	}
	if in.inlineCache != nil {
		set["moby.buildkit.cache.v0"] = in.inlineCache
	}
	return setFields(in.config, set)
}

// setFields sets fields of a JSON object. Others stay, known or not.
func setFields(object []byte, set map[string]any) ([]byte, error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(object, &fields); err != nil {
		return nil, err
	}
	for k, v := range set {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		fields[k] = b
	}
	return json.Marshal(fields)
}

// alignHistory returns a history with as many entries that are not empty as there are
// layers, each with a time. Missing entries describe the topmost layers.
func alignHistory(in []ocispec.History, layers []snapshot.Blob) []ocispec.History {
	var history []ocispec.History // null in JSON if there is none
	n := 0
	for _, h := range in {
		if !h.EmptyLayer {
			if n == len(layers) {
				h.EmptyLayer = true // there is no layer left for it
			} else {
				n++
			}
		}
		history = append(history, h)
	}
	for _, l := range layers[n:] {
		what := l.Description
		if what == "" {
			what = "created by dbuild"
		}
		history = append(history, ocispec.History{Created: timeOf(l), CreatedBy: what, Comment: addedBy})
	}

	i := 0
	for k := range history {
		if history[k].EmptyLayer {
			continue
		}
		if history[k].Created == nil {
			history[k].Created = timeOf(layers[i])
		}
		i++
	}
	// An instruction without a layer happened with the one before it; those at the start
	// with the first new layer, which comes after all that have no time.
	last := firstNew(history)
	untimed := false
	for k := range history {
		switch {
		case history[k].Created == nil:
			history[k].Created, untimed = last, true
		case untimed:
			last = history[k].Created
		}
	}
	return history
}

// firstNew is the first time that follows an entry without one, or else the last time.
func firstNew(history []ocispec.History) *time.Time {
	var last *time.Time
	untimed := false
	for _, h := range history {
		if h.Created == nil {
			untimed = true
			continue
		}
		last = h.Created
		if untimed {
			break
		}
	}
	return last
}

func timeOf(l snapshot.Blob) *time.Time {
	if l.Created.IsZero() {
		return nil
	}
	t := l.Created.UTC()
	return &t
}

// clampHistory makes no entry later than the epoch, but for those of the base image,
// which are not ours to change.
func clampHistory(history, base []ocispec.History, epoch time.Time) {
	ours := false
	for i := range history {
		if !ours && i < len(base) && reflect.DeepEqual(history[i], base[i]) {
			continue
		}
		ours = true
		if c := history[i].Created; c == nil || c.After(epoch) {
			history[i].Created = &epoch
		}
	}
}
