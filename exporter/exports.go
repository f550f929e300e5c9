package exporter

import (
	"bytes"
	"encoding/json"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbuild/dbuild/internal/exportrecord"
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
	label, ok := img.Config.Labels[exportrecord.Label]
	if !ok || len(in.layers)-len(base.RootFS.DiffIDs) == filled(img.History)-filled(base.History) {
		return in.config, false, nil
	}
	label, lost, empty := exportrecord.WithoutDiffs(label)
	if !lost {
		return in.config, false, nil
	}
	labels := img.Config.Labels
	labels[exportrecord.Label] = label
	if empty {
		delete(labels, exportrecord.Label)
	}
	// Fields that are not in the specification stay.
	fields, inner := map[string]json.RawMessage{}, map[string]json.RawMessage{}
	if err := json.Unmarshal(in.config, &fields); err != nil {
		return nil, false, err
	}
	if err := json.Unmarshal(fields["config"], &inner); err != nil {
		return nil, false, err
	}
	if inner["Labels"], err = json.Marshal(labels); err != nil {
		return nil, false, err
	}
	if fields["config"], err = json.Marshal(inner); err != nil {
		return nil, false, err
	}
	config, err = json.Marshal(fields)
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
