package instruction

import (
	"errors"
	"fmt"

	"github.com/dbuild/dbuild/llb"
)

// freshnessFlags are the flags of RUN that say for how long the cache may answer.
type freshnessFlags struct{ ttl, never flag }

func (f *freshnessFlags) flags() []*flag {
	f.ttl.name, f.never.name, f.never.kind = "cache-ttl", "no-cache", boolean
	return []*flag{&f.ttl, &f.never}
}

func (f *freshnessFlags) parse() (out llb.Freshness, err error) {
	out.Never = f.never.on
	if !f.ttl.set {
		return out, nil
	}
	if out.Never {
		return out, errors.New("--cache-ttl and --no-cache exclude each other")
	}
	if out.TTL, err = llb.ParseTTL(f.ttl.value); err != nil {
		return out, fmt.Errorf("--cache-ttl: %w", err)
	}
	return out, nil
}
