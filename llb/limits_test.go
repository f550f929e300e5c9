package llb_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dbuild/dbuild/llb"
)

func TestRunLimitsAreDescribed(t *testing.T) {
	for _, l := range []llb.RunLimits{
		{}, {Timeout: 90 * time.Second}, {Retry: 2}, {Timeout: time.Hour, Retry: 100, RetryOn: []string{"timeout", "exit:100"}},
	} {
		m := map[string]string{"other": "x"}
		l.Describe(m)
		got, err := llb.LimitsOf(m)
		if err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(l, got); d != "" {
			t.Error(d)
		}
	}
	for key, value := range map[string]string{"dbuild.timeout": "1", "dbuild.retry": "101", "dbuild.retry-on": "exit:256"} {
		if _, err := llb.LimitsOf(map[string]string{key: value}); err == nil || !strings.Contains(err.Error(), "want") && !strings.Contains(err.Error(), "not an exit code") {
			t.Errorf("%s=%s: %v", key, value, err)
		}
	}
}

func TestRunLimitsAgain(t *testing.T) {
	const late = -1
	for _, c := range []struct {
		on          string
		tries, code int
		want        bool
	}{
		{"", 1, 1, true}, {"", 2, 1, true}, {"", 3, 1, false}, {"", 1, late, true},
		{"exit", 1, 7, true}, {"exit", 1, late, false}, {"exit:7", 1, 7, true}, {"exit:7", 1, 8, false},
		{"timeout", 1, 7, false}, {"timeout", 1, late, true}, {"exit:1,exit:7", 1, 7, true}, {"exit:7", 3, 7, false},
	} {
		l, err := llb.ParseRunLimits("1s", "2", c.on)
		if err != nil {
			t.Fatal(err)
		}
		if got := l.Again(c.tries, c.code); got != c.want {
			t.Errorf("%s: after try %d with %d: %v", c.on, c.tries, c.code, got)
		}
	}
}
