package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/exporter"
	"github.com/dbuild/dbuild/frontend"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// verifyPlatforms warns if a result is for other platforms than the client asked for. The
// client may compare its words.
func (b *build) verifyPlatforms(ctx context.Context, attrs map[string]string, res *frontend.Result) {
	if attrs["requestid"] != "" || res.Ref == nil && len(res.Refs) == 0 {
		return
	}
	wanted := attrs["platform"]
	if wanted == "" {
		wanted = platforms.Format(platforms.Normalize(platforms.DefaultSpec()))
	}
	src := exporter.Source{Metadata: res.Metadata}
	if len(res.Refs) > 0 {
		var err error
		if src.Platforms, err = platformList(res); err != nil {
			return // the exporters say so
		}
	}
	got, err := src.Parts()
	if err != nil {
		return
	}
	if text := mismatch(wanted, got, len(res.Refs) > 0); text != "" {
		b.Warn(ctx, frontend.Warning{Short: text})
	}
}

// mismatch says how the platforms of a result differ from those wanted, or "".
func mismatch(wanted string, got []exporter.Platform, multi bool) string {
	var want []ocispec.Platform
	for name := range strings.SplitSeq(wanted, ",") {
		p, err := platforms.Parse(name)
		if err != nil {
			return fmt.Sprintf("Invalid platform result requested %q: %v", name, err)
		}
		p = platforms.Normalize(p)
		if slices.ContainsFunc(want, func(o ocispec.Platform) bool { return platforms.FormatAll(o) == platforms.FormatAll(p) }) {
			return fmt.Sprintf("Duplicate platform result requested %q", name)
		}
		want = append(want, p)
	}
	if !multi && len(want) > 1 {
		return "Multiple platforms requested but result is not multi-platform"
	}
	same := len(want) == len(got)
	var names []string
	for _, p := range got {
		names = append(names, platforms.FormatAll(p.Platform))
		same = same && slices.ContainsFunc(want, func(w ocispec.Platform) bool {
			return platforms.OnlyStrict(w).Match(p.Platform)
		})
	}
	if same {
		return ""
	}
	if len(want) == 1 && len(got) == 1 {
		return fmt.Sprintf("Requested platform %q does not match result platform %q", wanted, names[0])
	}
	return fmt.Sprintf("Requested platforms %s do not match result platforms %s", wanted, strings.Join(names, ","))
}
