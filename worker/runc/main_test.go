package runc_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dbuild/dbuild/worker/runc"
	"github.com/dbuild/dbuild/worker/runc/network"
)

func TestMain(m *testing.M) {
	runc.Init()
	if os.Getenv(probeEnv) != "" {
		os.Exit(probe())
	}
	if args := os.Getenv(daemonEnv); args != "" {
		os.Exit(runDaemon(args))
	}
	code := m.Run()
	if path, err := crunPath(); err == nil && path != "crun" {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// newExecutor makes one that steps share the host's network with, unless the config says
// otherwise.
func newExecutor(t testing.TB, c runc.Config) *runc.Executor {
	t.Helper()
	if c.Root == "" {
		c.Root = t.TempDir()
	}
	if c.Network.Mode == "" {
		c.Network.Mode = network.Host
	}
	if c.Runtime == "crun" {
		var err error
		c.Runtime, err = crunPath()
		must(t, err)
	}
	e, err := runc.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// newRootfs mounts a file system with busybox in it, as an overlay as the daemon does.
func newRootfs(t testing.TB) string {
	t.Helper()
	base := t.TempDir()
	lower, upper, work, merged := filepath.Join(base, "lower"), filepath.Join(base, "upper"), filepath.Join(base, "work"), filepath.Join(base, "merged")
	for _, dir := range []string{lower + "/bin", lower + "/etc", lower + "/tmp", lower + "/root", upper, work, merged} {
		must(t, os.MkdirAll(dir, 0o755))
	}
	must(t, os.Chmod(lower+"/tmp", 0o1777))
	busybox, err := os.ReadFile("/bin/busybox")
	must(t, err)
	must(t, os.WriteFile(lower+"/bin/busybox", busybox, 0o755))
	for _, name := range []string{"sh", "cat", "true", "false", "id", "pwd", "grep", "kill", "sleep", "env", "hostname", "ls", "mount", "df", "echo", "touch",
		"mkdir", "ln", "rm", "ip", "ping", "stat", "readlink", "seq", "dd", "test", "ps", "mknod", "unshare", "tail", "head", "chroot", "awk", "stty", "nc", "umount", "rmdir"} {
		must(t, os.Symlink("busybox", lower+"/bin/"+name))
	}
	must(t, os.WriteFile(lower+"/etc/passwd", []byte("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/home/app:/bin/sh\n"), 0o644))
	must(t, os.WriteFile(lower+"/etc/group", []byte("root:x:0:\napp:x:1001:\nextra:x:2002:app\nother:x:3003:\n"), 0o644))
	if err := unix.Mount("overlay", merged, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", lower, upper, work)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(merged, 0); err != nil {
			t.Errorf("unmount root file system: %v", err)
		}
	})
	return merged
}

var serial atomic.Int64

func newID() string { return fmt.Sprintf("test-%d-%d", os.Getpid(), serial.Add(1)) }

// sh runs a shell script and returns what it printed.
func sh(t testing.TB, e *runc.Executor, p runc.Process, script string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	p.Args = []string{"/bin/sh", "-c", script}
	if p.ID == "" {
		p.ID = newID()
	}
	p.Stdout, p.Stderr = &out, &out
	err := e.Run(context.Background(), p)
	return strings.TrimSpace(out.String()), err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wait returns what comes from a channel, soon.
func wait[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing happened for 20 s")
		panic("unreachable")
	}
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not so after 20 s", what)
		}
	}
}

// A watcher hands out what is written to it line by line.
type watcher struct {
	mu    sync.Mutex
	rest  string
	lines chan string
}

func newWatcher() *watcher { return &watcher{lines: make(chan string, 100)} }

func (w *watcher) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rest += string(b)
	for {
		line, rest, ok := strings.Cut(w.rest, "\n")
		if !ok {
			return len(b), nil
		}
		w.lines <- line
		w.rest = rest
	}
}

func (w *watcher) line(t testing.TB) string { return wait(t, w.lines) }

// processes returns those in a pid namespace, named as by readlink.
func processes(t testing.TB, ns string) []int {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/ns/pid")
	must(t, err)
	var pids []int
	for _, link := range links {
		stat, _ := os.ReadFile(filepath.Join(filepath.Dir(filepath.Dir(link)), "stat"))
		_, state, _ := strings.Cut(string(stat), ") ")
		if strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X") {
			continue // dead, and somebody else's to bury
		}
		if target, err := os.Readlink(link); err == nil && target == ns {
			pid, err := strconv.Atoi(strings.Split(link, "/")[2])
			must(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

func killAll(t testing.TB, ns string) {
	t.Helper()
	pids := processes(t, ns)
	if len(pids) == 0 {
		t.Fatalf("no process in %s", ns)
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL) // the first one takes the others along
	}
}

// crunPath is crun, or a script that runs it where it works. It refuses hosts that use some
// controllers of cgroups version 2 beside those of version 1, even if nobody needs them.
var crunPath = sync.OnceValues(func() (string, error) {
	controllers, err := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers")
	if err != nil || len(bytes.TrimSpace(controllers)) == 0 {
		return "crun", nil
	}
	dir, err := os.MkdirTemp("", "crun-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "crun")
	script := `#!/bin/sh
exec unshare -m sh -c 'umount /sys/fs/cgroup/unified; exec crun "$@"' crun "$@"
`
	return path, os.WriteFile(path, []byte(script), 0o755)
})

// ran runs a process in the background.
func ran(e *runc.Executor, p runc.Process) <-chan error {
	c := make(chan error, 1)
	go func() { c <- e.Run(context.Background(), p) }()
	return c
}
