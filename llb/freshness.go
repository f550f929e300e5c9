package llb

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Freshness says for how long the result of an Exec may be used again.
type Freshness struct {
	TTL   time.Duration // the length of a period in which it may; zero for no end
	Never bool          // it may not at all
}

// The keys of Meta.Description.
const (
	freshTTL   = "dbuild.cache-ttl"
	freshNever = "dbuild.no-cache"
)

// periodEnv is a variable of the operation that names the period it runs in, so that it is
// another operation in the next one, for caches of every kind and for any builder. Builders
// that know Freshness do not give it to the process.
const periodEnv = "DBUILD_CACHE_PERIOD"

const minTTL = time.Second

// ParseTTL reads a duration, such as 90m, 24h or 7d.
func ParseTTL(s string) (time.Duration, error) {
	ttl, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		ttl = time.Duration(n) * 24 * time.Hour
	}
	switch {
	case err != nil:
		return 0, fmt.Errorf("invalid duration %q, want one like 90m, 24h or 7d", s)
	case ttl < minTTL:
		return 0, fmt.Errorf("%s is too short: the time must be at least %s", s, minTTL)
	}
	return ttl, nil
}

// period names the one that now is in. Periods are counted from 1970, so that they are the
// same on all machines.
func (f Freshness) period(now time.Time) string {
	begin := time.Unix(0, 0).Add(now.Sub(time.Unix(0, 0)) / f.TTL * f.TTL)
	return f.TTL.String() + " from " + begin.UTC().Format(time.RFC3339)
}

// Apply has an Exec be run anew as f says. now is the same for all of a build.
func (f Freshness) Apply(o *ExecOptions, m *Meta, now time.Time) {
	if f.TTL > 0 {
		o.Env = append(slices.Clip(o.Env), periodEnv+"="+f.period(now))
		describe(m, freshTTL, f.TTL.String())
	}
	if f.Never && !m.IgnoreCache {
		m.IgnoreCache = true
		describe(m, freshNever, "step")
	}
}

func describe(m *Meta, key, value string) {
	if m.Description == nil {
		m.Description = map[string]string{}
	}
	m.Description[key] = value
}

// EnvOf is what the process of an Exec with this description gets of the Exec's environment.
func EnvOf(description map[string]string, env []string) []string {
	if description[freshTTL] == "" || len(env) == 0 || !strings.HasPrefix(env[len(env)-1], periodEnv+"=") {
		return env
	}
	return env[:len(env)-1]
}

// RunsAlways tells whether an Exec with this description is run in every build because it says
// so itself, and not because the build is to use no cache.
func RunsAlways(description map[string]string) bool { return description[freshNever] != "" }

// IsPeriod tells whether a variable is there for the cache only.
func IsPeriod(name string) bool { return name == periodEnv }
