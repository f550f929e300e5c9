package llb

import (
	"slices"
	"testing"
	"time"
)

func TestParseTTL(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"90m": 90 * time.Minute, "24h": 24 * time.Hour, "7d": 168 * time.Hour, "1s": time.Second,
		"": 0, "d": 0, "1.5d": 0, "-1d": 0, "0d": 0, "-1h": 0, "1ms": 0, "24": 0, "99999999d": 0, "1w": 0,
	} {
		got, err := ParseTTL(s)
		if got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %s, %v", s, got, err)
		}
	}
}

// One period is one value everywhere, the next one another.
func TestPeriods(t *testing.T) {
	at := func(s string, ttl time.Duration) string {
		now, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return Freshness{TTL: ttl}.period(now)
	}
	const day = 24 * time.Hour
	first := at("2026-11-24T00:00:00Z", day)
	if first != "24h0m0s from 2026-11-24T00:00:00Z" {
		t.Error(first)
	}
	if got := at("2026-11-25T01:59:59.999+02:00", day); got != first {
		t.Errorf("the same day is %s", got)
	}
	for _, other := range []string{at("2026-11-25T00:00:00Z", day), at("2026-11-23T23:59:59Z", day), at("2026-11-24T00:00:00Z", 12*time.Hour)} {
		if other == first {
			t.Errorf("another period is %s, too", other)
		}
	}
}

// The cache sees the period, the process does not; what a Dockerfile calls by that name stays.
func TestPeriodIsForTheCache(t *testing.T) {
	shared := make([]string, 1, 8)
	shared[0] = "A=1"
	o, m := ExecOptions{Env: shared}, Meta{}
	Freshness{TTL: time.Hour}.Apply(&o, &m, time.Unix(0, 0))
	if len(o.Env) != 2 || shared[:2][1] != "" {
		t.Errorf("the variables are %q, those of others %q", o.Env, shared[:2])
	}
	if got := EnvOf(m.Description, o.Env); !slices.Equal(got, []string{"A=1"}) {
		t.Errorf("the process gets %q", got)
	}
	if got := EnvOf(nil, o.Env); len(got) != 2 {
		t.Errorf("a variable of the Dockerfile is gone: %q", got)
	}
	if m.IgnoreCache || RunsAlways(m.Description) {
		t.Error("the step runs in every build")
	}
	m = Meta{}
	Freshness{Never: true}.Apply(&o, &m, time.Unix(0, 0))
	if !m.IgnoreCache || !RunsAlways(m.Description) {
		t.Error("the step does not run in every build")
	}
	m = Meta{IgnoreCache: true}
	Freshness{Never: true}.Apply(&o, &m, time.Unix(0, 0))
	if RunsAlways(m.Description) {
		t.Error("a build without the cache keeps the cache mounts")
	}
}
