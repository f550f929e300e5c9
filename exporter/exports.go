package exporter

import (
	"bytes"
	"encoding/json"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbuild/dbuild/internal/exportrecord"
	"github.com/dbuild/dbuild/internal/progress"
)

// checkExports keeps what an image says that it exports in accord with its layers. "All that
// this image changed" is said as a number of layers to leave out, so that it is lost if the
// layers are others than those of the history: the base's, and one for each step.
func checkExports(in configInput) (config []byte, lost bool, err error) {
	if !bytes.Contains(in.config, []byte(exportrecord.Label)) {
		return in.config, false, nil
	}
	var img, base ocispec.Image
	if err := json.Unmarshal(in.config, &img); err != nil {
		return nil, false, fmt.Errorf("the image config: %w", err)
	}
	if len(in.base) > 0 {
		if err := json.Unmarshal(in.base, &base); err != nil {
			return nil, false, fmt.Errorf("the config of the base image: %w", err)
		}
	}
	if len(in.layers)-len(base.RootFS.DiffIDs) == filled(img.History)-filled(base.History) {
		return in.config, false, nil
	}
	return withoutDiffs(in.config, img)
}

// diffLost is the warning that belongs to withoutDiffs.
var diffLost = progress.Warning{Level: 1, Short: []byte("ExportDiffLost: the layers are not those of the steps, so the image does not say that it exports its changes (DIFF)")}

// withoutDiffs takes out of an image's config, which is img, what counts layers.
func withoutDiffs(config []byte, img ocispec.Image) (_ []byte, lost bool, err error) {
	labels := img.Config.Labels
	label, ok := labels[exportrecord.Label]
	if !ok {
		return config, false, nil
	}
	label, lost, empty := exportrecord.WithoutDiffs(label)
	if !lost {
		return config, false, nil
	}
	labels[exportrecord.Label] = label
	if empty {
		delete(labels, exportrecord.Label)
	}
	var outer struct {
		Config json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(config, &outer); err != nil {
		return nil, false, err
	}
	inner, err := setFields(outer.Config, map[string]any{"Labels": labels})
	if err != nil {
		return nil, false, err
	}
	config, err = setFields(config, map[string]any{"config": json.RawMessage(inner)})
	return config, true, err
}

// filled counts the entries that have a layer.
func filled(history []ocispec.History) int {
	n := 0
	for _, h := range history {
		if !h.EmptyLayer {
			n++
		}
	}
	return n
}
