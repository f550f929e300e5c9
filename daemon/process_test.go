package daemon

import (
	"bytes"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// find returns the process of a container whose last arguments are these, or 0.
func find(args ...string) int {
	want := []byte("\x00" + strings.Join(args, "\x00") + "\x00")
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if err == nil && bytes.HasSuffix(b, want) {
			return pid
		}
	}
	return 0
}

// process waits until such a process runs.
func process(t testing.TB, args ...string) (pid int) {
	t.Helper()
	eventually(t, strings.Join(args, " ")+" runs", func() bool {
		pid = find(args...)
		return pid != 0
	})
	return pid
}

// signal ends a process of a step, so that the step goes on.
func signal(t testing.TB, pid int) {
	t.Helper()
	must(t, syscall.Kill(pid, syscall.SIGTERM))
}
