package exporter

import (
	"strings"
	"testing"

	"github.com/dbuild/dbuild/internal/snapshot"
)

func TestExportsFollowLayers(t *testing.T) {
	const (
		base = `{"rootfs":{"type":"layers","diff_ids":["sha256:1","sha256:2"]},"history":[{"created_by":"all of it"}]}`
		tail = `"history":[{"created_by":"all of it"},{"created_by":"RUN x"},{"created_by":"ENV","empty_layer":true}]}`
		both = `{"architecture":"x","config":{"Own":1,"Labels":{"a":"b","dev.dbuild.exports.v1":"{\"e\":[{\"base\":2,\"t\":\"diff\"},{\"t\":\"volume\",\"v\":\"/x\"}],\"v\":1}"}},` + tail
		diff = `{"architecture":"x","config":{"Labels":{"a":"b","dev.dbuild.exports.v1":"{\"e\":[{\"base\":2,\"t\":\"diff\"}],\"v\":1}"}},` + tail
	)
	for _, c := range []struct {
		config     string
		layers     int
		lost       bool
		want, gone string
	}{
		{both, 3, false, `\"base\":2`, "#"},
		{both, 1, true, `\"t\":\"volume\"`, `\"base\":2`}, // squashed
		{both, 4, true, `"Own":1`, `\"base\":2`},
		{diff, 1, true, `"a":"b"`, "dev.dbuild.exports"},
		{strings.ReplaceAll(both, `\"base\":2,\"t\":\"diff\"`, `\"t\":\"volume\",\"v\":\"/y\"`), 1, false, "/y", "#"},
		{strings.ReplaceAll(both, "dev.dbuild", "dev.other"), 1, false, "dev.other", "#"},
	} {
		got, lost, err := checkExports(configInput{config: []byte(c.config), base: []byte(base), layers: make([]snapshot.Blob, c.layers)})
		if err != nil || lost != c.lost || !strings.Contains(string(got), c.want) || strings.Contains(string(got), c.gone) {
			t.Errorf("%d layers: %s, %v, %v", c.layers, got, lost, err)
		}
	}
}
