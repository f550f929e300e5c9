package launcher

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// DefaultProfile names docker's default seccomp profile.
const DefaultProfile = "default"

// Profile returns the seccomp rules for the process of spec, which depend on its
// capabilities and on the running kernel. The text is [DefaultProfile] or a profile in
// docker's JSON format; without one there are no rules.
func Profile(text string, spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	var p *specs.LinuxSeccomp
	var err error
	switch text {
	case "":
		return nil, nil
	case DefaultProfile:
		p, err = seccomp.GetDefaultProfile(spec)
	default:
		p, err = seccomp.LoadProfile(text, spec)
	}
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	return p, nil
}

// filters compiles each profile once for each set of capabilities.
type filters struct {
	mu sync.Mutex
	m  map[string]*compilation // under mu
}

type compilation struct {
	once   sync.Once
	filter *filter // nil: the profile has no rules
	err    error
}

// get returns the filter for the process of spec.
func (f *filters) get(text string, spec *specs.Spec) (*filter, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s %q", text, spec.Process.Capabilities.Bounding)
	key := hex.EncodeToString(h.Sum(nil))
	f.mu.Lock()
	if f.m == nil {
		f.m = make(map[string]*compilation)
	}
	c := f.m[key]
	if c == nil {
		c = new(compilation)
		f.m[key] = c
	}
	f.mu.Unlock()
	c.once.Do(func() {
		p, err := Profile(text, spec)
		if err != nil || p == nil {
			c.err = err
			return
		}
		if c.filter, c.err = compileFilter(p); c.err != nil {
			c.err = fmt.Errorf("compile seccomp profile: %w", c.err)
		}
	})
	return c.filter, c.err
}
