package daemon

import (
	"maps"
	"testing"
)

func TestCompatible(t *testing.T) {
	m := func(kv ...string) map[string]string {
		out := map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			out[kv[i]] = kv[i+1]
		}
		return out
	}
	old := m("oci-mediatypes", "false", "oci-artifact", "false")
	for _, c := range []struct {
		kind    string
		version int
		attrs   map[string]string
		want    map[string]string // nil: refused
	}{
		{"image", 0, m(), m()},
		{"image", 30, m("compression", "zstd"), m("compression", "zstd")},
		{"image", 20, m(), old},
		{"docker", 10, m(), old},
		{"oci", 10, m(), m("oci-artifact", "false")},
		{"local", 10, m(), m()},
		{"image", 20, m("oci-mediatypes", "true"), m("oci-mediatypes", "true", "oci-artifact", "false")},
		{"image", 20, m("compression", "zstd"), m("compression", "zstd", "oci-mediatypes", "false", "oci-artifact", "false")},
		{"image", 10, m("compression", "zstd"), nil},
	} {
		got, err := compatible(c.kind, c.attrs, c.version)
		if (err != nil) != (c.want == nil) || !maps.Equal(got, c.want) {
			t.Errorf("%s %d %v: %v, %v", c.kind, c.version, c.attrs, got, err)
		}
	}
}
