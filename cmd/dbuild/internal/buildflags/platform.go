package buildflags

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/suggest"
)

// The operating systems and architectures that Go has names for, and those that are
// reserved (go/build). Images may be for others; these are what others are most likely to be
// misspelt for.
var (
	systems = []string{
		"linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "dragonfly", "solaris", "illumos", "plan9",
		"aix", "android", "ios", "js", "wasi", "wasip1", "zos", "hurd",
	}
	architectures = []string{
		"386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "loong64", "mips", "mipsle", "mips64", "mips64le",
		"mips64p32", "mips64p32le", "ppc", "ppc64", "ppc64le", "riscv", "riscv64", "s390", "s390x", "sparc", "sparc64", "wasm",
	}
)

// nearPlatform proposes a platform in place of one that is unknown and most likely misspelt,
// as a text to append; it is empty if there is nothing to say.
func nearPlatform(s string) string {
	words := strings.Split(s, "/")
	known := slices.Concat(systems, architectures, []string{"local"})
	changed := false
	for i := range words[:min(len(words), 2)] {
		if len(words) > 1 {
			known = [][]string{systems, architectures}[i]
		}
		name, _, _ := strings.Cut(strings.ToLower(words[i]), "(") // a version may follow
		if i == 1 || len(words) == 1 {
			if p, err := platforms.Parse("linux/" + name); err == nil {
				name = platforms.Normalize(p).Architecture
			}
		}
		if slices.Contains(known, name) || len(words) > 1 && i == 0 && name == "macos" {
			continue
		}
		if near := suggest.Nearest(name, known); near != "" {
			words[i], changed = near, true
		}
	}
	if !changed {
		return ""
	}
	return fmt.Sprintf(" (did you mean %s?)", strings.Join(words, "/"))
}
