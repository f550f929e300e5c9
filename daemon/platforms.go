package daemon

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/go-archvariant"
)

// binfmtDir is where the kernel lists the emulators that are registered with it.
const binfmtDir = "/proc/sys/fs/binfmt_misc"

// workerPlatforms returns the platforms whose programs can run here, the native one
// first: those of a configuration, or those of the processor and of the registered
// emulators.
func workerPlatforms(configured []string) ([]ocispec.Platform, error) {
	if len(configured) > 0 {
		out := make([]ocispec.Platform, len(configured))
		for i, s := range configured {
			p, err := platforms.Parse(s)
			if err != nil {
				return nil, fmt.Errorf("worker platform %q: %w", s, err)
			}
			out[i] = platforms.Normalize(p)
		}
		return out, nil
	}
	return append(nativePlatforms(), emulated(binfmtDir)...), nil
}

func nativePlatforms() []ocispec.Platform {
	p := platforms.Normalize(platforms.DefaultSpec())
	out := []ocispec.Platform{{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}}
	if p.Architecture != "amd64" {
		return out
	}
	out[0].Variant = ""
	best := archvariant.AMD64Variant()
	for _, v := range []string{"v2", "v3", "v4"} {
		if v <= best {
			out = append(out, ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: v})
		}
	}
	return append(out, ocispec.Platform{OS: p.OS, Architecture: "386"})
}

// emulators are the names under which QEMU's emulators are registered.
var emulators = map[string]ocispec.Platform{
	"aarch64":     {OS: "linux", Architecture: "arm64"},
	"arm":         {OS: "linux", Architecture: "arm", Variant: "v7"},
	"loongarch64": {OS: "linux", Architecture: "loong64"},
	"mips64":      {OS: "linux", Architecture: "mips64"},
	"mips64el":    {OS: "linux", Architecture: "mips64le"},
	"ppc64le":     {OS: "linux", Architecture: "ppc64le"},
	"riscv64":     {OS: "linux", Architecture: "riscv64"},
	"s390x":       {OS: "linux", Architecture: "s390x"},
	"x86_64":      {OS: "linux", Architecture: "amd64"},
}

// emulated returns the platforms whose emulators are registered and enabled. Only those
// that the kernel keeps open work inside a container (flag F).
func emulated(dir string) []ocispec.Platform {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var out []ocispec.Platform
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), "qemu-")
		p, known := emulators[name]
		if !ok || !known || !usable(filepath.Join(dir, e.Name())) {
			continue
		}
		out = append(out, p)
		if p.Architecture == "arm" {
			out = append(out, ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v6"})
		}
	}
	slices.SortFunc(out, func(a, b ocispec.Platform) int { return strings.Compare(platforms.Format(a), platforms.Format(b)) })
	return out
}

func usable(file string) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	enabled, kept := false, false
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		enabled = enabled || line == "enabled"
		if flags, ok := strings.CutPrefix(line, "flags:"); ok {
			kept = strings.Contains(flags, "F")
		}
	}
	return enabled && kept
}
