package autostart

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test program is also the daemon: it does what its first argument says.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && strings.HasPrefix(os.Args[1], "daemon-") {
		os.Exit(fakeDaemon(os.Args[1], os.Args[2]))
	}
	os.Exit(m.Run())
}

// fakeDaemon leaves its process id in a file named after it, next to the socket.
func fakeDaemon(how, socket string) int {
	pid := strconv.Itoa(os.Getpid())
	if err := os.WriteFile(socket+".pid."+pid, []byte(pid), 0o600); err != nil {
		return 3
	}
	switch how {
	case "daemon-dies":
		fmt.Fprintln(os.Stderr, "the disk is on fire")
		return 7
	case "daemon-hangs":
		_ = syscall.Pause() // an empty select would be found out as a deadlock
	}
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		for _, fd := range fds {
			if target, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.Contains(target, "start.lock") || strings.Contains(target, "inherited") {
				fmt.Fprintln(os.Stderr, "inherited", target)
				return 4
			}
		}
	}
	if sid, _, _ := syscall.RawSyscall(syscall.SYS_GETSID, 0, 0, 0); int(sid) != os.Getpid() {
		return 5
	}
	_ = os.Remove(socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 6
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return 0
		}
		c.Close()
	}
}

func config(t *testing.T, how string) Config {
	t.Helper()
	dir := t.TempDir()
	c := Config{
		Command: []string{os.Args[0], how, filepath.Join(dir, "s")},
		Env:     os.Environ(),
		Socket:  filepath.Join(dir, "s"),
		State:   filepath.Join(dir, "state"),
		Timeout: 30 * time.Second,
	}
	t.Cleanup(func() {
		for _, pid := range pids(t, c) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return c
}

// pids returns the processes that were started.
func pids(t *testing.T, c Config) []int {
	t.Helper()
	files, err := filepath.Glob(c.Socket + ".pid.*")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, f := range files {
		pid, err := strconv.Atoi(f[strings.LastIndexByte(f, '.')+1:])
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, pid)
	}
	return out
}

func TestManyClientsStartOneDaemon(t *testing.T) {
	c := config(t, "daemon-listens")
	// A file that a parent left open in us, as shells and make do.
	inherited, err := os.Create(filepath.Join(t.TempDir(), "inherited"))
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	if _, _, errno := syscall.Syscall(syscall.SYS_FCNTL, inherited.Fd(), syscall.F_SETFD, 0); errno != 0 {
		t.Fatal(errno)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	started := 0
	for range 8 {
		wg.Go(func() {
			did, err := Ensure(t.Context(), c)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if did {
				started++
			}
		})
	}
	wg.Wait()
	if n := len(pids(t, c)); started != 1 || n != 1 {
		t.Errorf("%d clients started %d daemons", started, n)
	}
	if did, err := Ensure(t.Context(), c); did || err != nil {
		t.Errorf("with a daemon listening: %t, %v", did, err)
	}
}

func TestStaleSocketNeedsNobody(t *testing.T) {
	c := config(t, "daemon-listens")
	if _, err := Ensure(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	pid := pids(t, c)[0]
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, func() bool { return !listens(t.Context(), c.Socket) })
	if _, err := os.Lstat(c.Socket); err != nil {
		t.Fatalf("the killed daemon left no socket, so nothing is tested: %v", err)
	}
	if did, err := Ensure(t.Context(), c); !did || err != nil {
		t.Fatalf("%t, %v", did, err)
	}
}

func TestDeadDaemonIsExplained(t *testing.T) {
	c := config(t, "daemon-dies")
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.LogFile(), []byte("an older failure\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Ensure(t.Context(), c)
	var start *StartError
	if !errors.As(err, &start) {
		t.Fatalf("got %v", err)
	}
	if !strings.Contains(err.Error(), "the disk is on fire") || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("its last words are missing: %v", err)
	}
	if strings.Contains(err.Error(), "older") {
		t.Errorf("words of an earlier daemon: %v", err)
	}
}

func TestHangingDaemonIsGivenUp(t *testing.T) {
	c := config(t, "daemon-hangs")
	c.Timeout = 200 * time.Millisecond
	_, err := Ensure(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), "did not listen within") {
		t.Fatalf("got %v", err)
	}
	for _, pid := range pids(t, c) {
		if syscall.Kill(pid, 0) == nil {
			t.Errorf("process %d is left", pid)
		}
	}
}

func TestCanceled(t *testing.T) {
	c := config(t, "daemon-hangs")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { _, err := Ensure(ctx, c); done <- err }()
	waitUntil(t, func() bool { return len(pids(t, c)) > 0 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestMissingProgram(t *testing.T) {
	c := config(t, "x")
	c.Command = []string{"/no/such/program"}
	if _, err := Ensure(t.Context(), c); !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

func TestLargeLogIsSetAside(t *testing.T) {
	c := config(t, "daemon-listens")
	if err := os.MkdirAll(c.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.LogFile(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(c.LogFile(), maxLog+1); err != nil {
		t.Fatal(err)
	}
	if _, err := Ensure(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(c.LogFile()); err != nil || fi.Size() > maxLog {
		t.Errorf("the log is still large: %v", err)
	}
	if _, err := os.Stat(c.LogFile() + ".1"); err != nil {
		t.Error(err)
	}
}

// waitUntil polls, because processes do not tell.
func waitUntil(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not happen within 20s")
		}
	}
}
