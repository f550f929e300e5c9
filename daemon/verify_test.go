package daemon

import (
	"testing"

	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/exporter"
)

func TestMismatch(t *testing.T) {
	for _, c := range []struct {
		wanted string
		got    []string
		multi  bool
		want   string
	}{
		{"linux/amd64", []string{"linux/amd64"}, false, ""},
		{"linux/arm64/v8", []string{"linux/arm64"}, false, ""},
		{"linux/amd64", []string{"linux/arm64"}, false, `Requested platform "linux/amd64" does not match result platform "linux/arm64"`},
		{"linux/amd64,linux/arm64", []string{"linux/amd64"}, false, "Multiple platforms requested but result is not multi-platform"},
		{"linux/amd64,linux/arm64", []string{"linux/arm64", "linux/amd64"}, true, ""},
		{"linux/amd64", []string{"linux/amd64", "linux/arm64"}, true, "Requested platforms linux/amd64 do not match result platforms linux/amd64,linux/arm64"},
		{"linux/amd64,linux/amd64", nil, true, `Duplicate platform result requested "linux/amd64"`},
	} {
		var got []exporter.Platform
		for _, p := range c.got {
			got = append(got, exporter.Platform{ID: p, Platform: platforms.Normalize(platforms.MustParse(p))})
		}
		if text := mismatch(c.wanted, got, c.multi); text != c.want {
			t.Errorf("%s %v: %q, want %q", c.wanted, c.got, text, c.want)
		}
	}
	if mismatch("a/b/c/d", nil, false) == "" {
		t.Error("nonsense is wanted, and nothing said")
	}
}
