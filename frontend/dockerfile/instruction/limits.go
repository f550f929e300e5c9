package instruction

import (
	"errors"
	"fmt"

	"github.com/dbuild/dbuild/llb"
)

// limitFlags are the flags of RUN that say how long it may take and how often it is tried.
type limitFlags struct{ timeout, retry, retryOn flag }

func (l *limitFlags) flags() []*flag {
	l.timeout.name, l.retry.name, l.retryOn.name = "timeout", "retry", "retry-on"
	return []*flag{&l.timeout, &l.retry, &l.retryOn}
}

func (l *limitFlags) parse() (llb.RunLimits, error) {
	for _, f := range l.flags() {
		if f.set && f.value == "" {
			return llb.RunLimits{}, fmt.Errorf("missing a value on flag: --%s", f.name)
		}
	}
	if l.retryOn.set && !l.retry.set {
		return llb.RunLimits{}, errors.New("--retry-on says when to try again, but --retry, how often, is missing")
	}
	out, err := llb.ParseRunLimits(l.timeout.value, l.retry.value, l.retryOn.value)
	if err != nil {
		return out, fmt.Errorf("--%w", err)
	}
	return out, nil
}
