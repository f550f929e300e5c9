package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func names(list []ocispec.Platform) []string {
	var out []string
	for _, p := range list {
		out = append(out, platforms.Format(p))
	}
	return out
}

func TestWorkerPlatforms(t *testing.T) {
	native, err := workerPlatforms(nil)
	must(t, err)
	if first := platforms.DefaultSpec(); native[0].Architecture != first.Architecture || native[0].OS != "linux" {
		t.Errorf("got %v", names(native))
	}
	list, err := workerPlatforms([]string{"linux/arm64", "linux/arm/v7"})
	if err != nil || !slices.Equal(names(list), []string{"linux/arm64", "linux/arm/v7"}) {
		t.Errorf("got %v, %v", names(list), err)
	}
	if _, err := workerPlatforms([]string{"a b"}); err == nil {
		t.Error("nonsense was accepted")
	}
}

func TestEmulated(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"qemu-aarch64": "enabled\ninterpreter /usr/bin/qemu-aarch64\nflags: OCF\n",
		"qemu-arm":     "enabled\ninterpreter /usr/bin/qemu-arm\nflags: POCF\n",
		"qemu-s390x":   "disabled\ninterpreter /x\nflags: F\n",
		"qemu-riscv64": "enabled\ninterpreter /x\nflags: \n",
		"python3":      "enabled\nflags: F\n",
		"status":       "enabled\n",
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	if got := names(emulated(dir)); !slices.Equal(got, []string{"linux/arm/v6", "linux/arm/v7", "linux/arm64"}) {
		t.Errorf("got %v", got)
	}
	if got := emulated(filepath.Join(dir, "none")); got != nil {
		t.Errorf("got %v", got)
	}
}
