package attest

import (
	"encoding/json"
	"fmt"
)

// AddLayers notes beside every file of an SPDX document which layer it is in, if layerOf
// knows one. What else the document says stays as it is.
func AddLayers(doc []byte, layerOf func(file string) string) ([]byte, error) {
	top := map[string]json.RawMessage{}
	if err := json.Unmarshal(doc, &top); err != nil {
		return nil, fmt.Errorf("the SPDX document is not a JSON object: %w", err)
	}
	var files []map[string]json.RawMessage
	if err := json.Unmarshal(top["files"], &files); err != nil {
		return doc, nil // it lists none
	}
	for _, f := range files {
		var name, comment string
		if json.Unmarshal(f["fileName"], &name) != nil {
			continue
		}
		layer := layerOf(name)
		if layer == "" {
			continue
		}
		if json.Unmarshal(f["comment"], &comment) == nil && comment != "" {
			comment = "\n" + comment
		}
		b, err := json.Marshal("layerID: " + layer + comment)
		if err != nil {
			return nil, err
		}
		f["comment"] = b
	}
	b, err := json.Marshal(files)
	if err != nil {
		return nil, err
	}
	top["files"] = b
	return json.Marshal(top)
}
