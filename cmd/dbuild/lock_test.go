package main

import (
	"strings"
	"testing"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
)

func TestLockCommandLine(t *testing.T) {
	for want, tc := range map[string]struct {
		flags   buildflags.Flags
		context string
	}{
		"dbuild lock .": {context: "."},
		"dbuild lock -f F --lock-file L --target T dir": {buildflags.Flags{File: "F", LockFile: "L", Target: "T"}, "dir"},
		"dbuild lock --platform linux/arm64 --build-arg A=1 --build-arg 'B=it'\\''s' --build-context x=dir .": {
			buildflags.Flags{Platform: []string{"linux/arm64"}, BuildArg: []string{"A=1", "B=it's"}, BuildContext: []string{"x=dir"}}, "."},
		"dbuild lock https://xxxxx:xxxxx@h/r.git#main":      {context: "https://me:secret@h/r.git#main"},
		"dbuild lock -f https://xxxxx:xxxxx@h/Dockerfile .": {buildflags.Flags{File: "https://me:secret@h/Dockerfile"}, "."},
	} {
		got := lockCommandLine(&tc.flags, tc.context)
		if got != want || strings.Contains(got, "secret") {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
