package buildflags

import "testing"

func TestNearPlatform(t *testing.T) {
	for s, want := range map[string]string{
		"linux/amd64": "", "linux/aarch64": "", "linux/x86_64": "", "linux/arm/v7": "", "linux/armhf": "", "arm64": "", "windows(10.0.17763)/amd64": "",
		"wasi/wasm": "", "macos/arm64": "", "local": "", "linux/riscv64": "", "linux/loong64": "", "linux/zarch9000": "",
		"linux/amd46":    " (did you mean linux/amd64?)",
		"linx/amd64":     " (did you mean linux/amd64?)",
		"liunx/ppc46le":  " (did you mean linux/ppc64le?)",
		"linux/amd46/v2": " (did you mean linux/amd64/v2?)",
		"amd46":          " (did you mean amd64?)",
		"locl":           " (did you mean local?)",
	} {
		if got := nearPlatform(s); got != want {
			t.Errorf("%s: %q, want %q", s, got, want)
		}
	}
}
