//go:build !cgo || !seccomp

package launcher

import (
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// SeccompVersion is the version of libseccomp, empty if this program was built without.
func SeccompVersion() string { return "" }

func compileFilter(*specs.LinuxSeccomp) (*filter, error) {
	return nil, errors.New("built without seccomp support (build tag seccomp)")
}
