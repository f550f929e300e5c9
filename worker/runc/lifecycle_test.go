package runc_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dbuild/dbuild/worker/runc"
	"github.com/dbuild/dbuild/worker/runc/network"
)

// sleeping starts a step with two processes, and returns its pid namespace once they run.
func sleeping(t testing.TB, ctx context.Context, e *runc.Executor, rootfs string) (ns string, result <-chan error) {
	t.Helper()
	out := newWatcher()
	c := make(chan error, 1)
	go func() {
		c <- e.Run(ctx, runc.Process{ID: newID(), Rootfs: rootfs, Stdout: out,
			Args: []string{"/bin/sh", "-c", "sleep 1000 & readlink /proc/self/ns/pid; trap '' TERM; sleep 1000"}})
	}()
	return out.line(t), c
}

func TestCancel(t *testing.T) {
	runtimes(t, func(t *testing.T, e *runc.Executor) {
		cause := errors.New("nobody wants it")
		ctx, cancel := context.WithCancelCause(context.Background())
		ns, result := sleeping(t, ctx, e, newRootfs(t))
		if len(processes(t, ns)) == 0 {
			t.Fatal("nothing runs")
		}
		start := time.Now()
		cancel(cause)
		if err := wait(t, result); !errors.Is(err, cause) {
			t.Errorf("got %v, want the cause", err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		if left := processes(t, ns); len(left) > 0 {
			t.Errorf("left processes %v", left)
		}
	})
}

// TestCancelAnywhere cancels at many moments of a container's life.
func TestCancelAnywhere(t *testing.T) {
	e := newExecutor(t, runc.Config{Network: network.Config{Mode: network.Bridge}})
	rootfs := newRootfs(t)
	for i := range 40 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*time.Millisecond)
		err := e.Run(ctx, runc.Process{ID: newID(), Rootfs: rootfs, Args: []string{"/bin/sleep", "1000"}})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("after %d ms: %v", i, err)
		}
		cancel()
	}
	if out, err := sh(t, e, runc.Process{Rootfs: rootfs}, "echo fine"); out != "fine" {
		t.Errorf("afterwards: %q %v", out, err)
	}
}

func TestCloseKills(t *testing.T) {
	runtimes(t, func(t *testing.T, e *runc.Executor) {
		ns, result := sleeping(t, context.Background(), e, newRootfs(t))
		must(t, e.Close())
		if err := wait(t, result); !errors.Is(err, runc.ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
		if left := processes(t, ns); len(left) > 0 {
			t.Errorf("left processes %v", left)
		}
		if err := e.Run(context.Background(), runc.Process{ID: "x", Args: []string{"x"}}); !errors.Is(err, runc.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

// leftovers returns what steps could leave on the host: mounts, cgroups, files.
func leftovers(t *testing.T, root string) []string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	var list []string
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, root) || strings.Contains(line, "nsfs") {
			list = append(list, strings.TrimSpace(line))
		}
	}
	cgroups, err := filepath.Glob("/sys/fs/cgroup/*/dbuild-*/test-" + strconv.Itoa(os.Getpid()) + "-*")
	must(t, err)
	list = append(list, cgroups...)
	for _, pattern := range []string{root + "/containers/*", root + "/steps/*", root + "/runtime/*"} {
		files, err := filepath.Glob(pattern)
		must(t, err)
		list = append(list, files...)
	}
	return list
}

func TestNothingLeft(t *testing.T) {
	for _, runtime := range []string{"", "runc", "crun"} {
		t.Run("runtime "+runtime, func(t *testing.T) {
			root, rootfs := t.TempDir(), newRootfs(t)
			e := newExecutor(t, runc.Config{Root: root, Runtime: runtime, Network: network.Config{Mode: network.Bridge}})
			for _, name := range []string{"proc", "sys", "dev"} { // these stay
				must(t, os.Mkdir(filepath.Join(rootfs, name), 0o755))
			}
			before, err := os.ReadDir(rootfs)
			must(t, err)
			for _, script := range []string{"true", "exit 3", "sleep 100 & true", "/no/such"} {
				_, _ = sh(t, e, runc.Process{Rootfs: rootfs, Hostname: "own-hosts-file", Mounts: []runc.Mount{{Type: "tmpfs", Target: "/a/b"}}, RemoveStubsRecursive: true}, script)
			}
			ctx, cancel := context.WithCancel(context.Background())
			_, result := sleeping(t, ctx, e, rootfs)
			cancel()
			_ = wait(t, result)
			if left := leftovers(t, root); len(left) > 0 {
				t.Errorf("left %q", left)
			}
			after, err := os.ReadDir(rootfs)
			must(t, err)
			if len(after) != len(before) {
				t.Errorf("root file system had %v, has %v", before, after)
			}
			must(t, e.Close())
			cgroups, err := filepath.Glob("/sys/fs/cgroup/*/dbuild-*/test-" + strconv.Itoa(os.Getpid()) + "-*")
			must(t, err)
			if len(cgroups) > 0 {
				t.Errorf("after Close there is %v", cgroups)
			}
			files, err := os.ReadDir(root)
			must(t, err)
			if len(files) > 0 {
				t.Errorf("after Close there is %v", files)
			}
		})
	}
}

// TestLauncherDies kills the process that makes containers while one runs.
func TestLauncherDies(t *testing.T) {
	root := t.TempDir()
	e := newExecutor(t, runc.Config{Root: root})
	rootfs := newRootfs(t)
	ns, result := sleeping(t, context.Background(), e, rootfs)
	launchers := children(t, os.Getpid())
	if len(launchers) == 0 {
		t.Fatal("no launcher found")
	}
	for _, pid := range launchers {
		must(t, unix.Kill(pid, unix.SIGKILL))
	}
	if err := wait(t, result); err == nil || !strings.Contains(err.Error(), "launcher") {
		t.Errorf("got %v", err)
	}
	if left := processes(t, ns); len(left) > 0 {
		t.Errorf("left processes %v", left)
	}
	if left := leftovers(t, root); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	if out, err := sh(t, e, runc.Process{Rootfs: rootfs}, "echo again"); out != "again" {
		t.Errorf("afterwards: %q %v", out, err)
	}
}

// children returns the processes of a parent that are launchers.
func children(t testing.TB, parent int) []int {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	var pids []int
	for _, file := range files {
		cmdline, _ := os.ReadFile(file)
		stat, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "stat"))
		_, rest, _ := strings.Cut(string(stat), ") ")
		fields := strings.Fields(rest)
		if string(cmdline) == "dbuild-launcher\x00" && len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			pid, err := strconv.Atoi(strings.Split(file, "/")[2])
			must(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

const (
	daemonEnv  = "TEST_DAEMON"
	testBridge = "dbuild-testkill"
)

// runDaemon is what the test program does when it plays a daemon that will be killed.
func runDaemon(args string) int {
	a := strings.Split(args, "\n")
	e, err := runc.New(runc.Config{Root: a[0], Runtime: a[2], Network: network.Config{Mode: network.Bridge, BridgeName: testBridge}, CgroupParent: "dbuildtest.slice"})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	err = e.Run(context.Background(), runc.Process{ID: "killed", Rootfs: a[1], Stdout: os.Stdout, Hostname: "own-hosts-file",
		CgroupParent: "/dbuild-test-parent", Args: []string{"/bin/sh", "-c", "sleep 1000 & readlink /proc/self/ns/pid; sleep 1000"}})
	fmt.Println(err)
	return 1
}

func startDaemon(t *testing.T, root, rootfs, runtime string) (daemon *exec.Cmd, ns string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{daemonEnv + "=" + root + "\n" + rootfs + "\n" + runtime, "PATH=" + os.Getenv("PATH")}
	cmd.Stderr = os.Stderr
	// Not a pipe that this process owns: those who survive the daemon hold it.
	r, w, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { r.Close() })
	cmd.Stdout = w
	must(t, cmd.Start())
	w.Close()
	line, err := bufio.NewReader(r).ReadString('\n')
	must(t, err)
	return cmd, strings.TrimSpace(line)
}

// TestDaemonDies kills a daemon. Its launcher, if it has one, cleans up after it; if that is
// killed too, or for other runtimes, the next daemon's Sweep does.
func TestDaemonDies(t *testing.T) {
	parents := []string{"/sys/fs/cgroup/*/dbuild-test-parent/dbuild-*"}
	t.Cleanup(func() {
		for _, pattern := range []string{"/sys/fs/cgroup/*/dbuild-test-parent", "/sys/fs/cgroup/*/dbuildtest.slice"} {
			dirs, _ := filepath.Glob(pattern)
			for _, dir := range dirs {
				_ = os.Remove(dir)
			}
		}
	})
	t.Run("launcher lives", func(t *testing.T) {
		root := t.TempDir()
		daemon, ns := startDaemon(t, root, newRootfs(t), "")
		must(t, daemon.Process.Kill())
		_ = daemon.Wait()
		eventually(t, "processes gone", func() bool { return len(processes(t, ns)) == 0 })
		eventually(t, "cgroups gone", func() bool {
			dirs, _ := filepath.Glob(parents[0] + "/killed")
			return len(dirs) == 0
		})
		sweep(t, root, "")
	})
	for _, runtime := range []string{"", "runc"} {
		t.Run("all killed "+runtime, func(t *testing.T) {
			root := t.TempDir()
			daemon, ns := startDaemon(t, root, newRootfs(t), runtime)
			launchers := children(t, daemon.Process.Pid)
			must(t, daemon.Process.Signal(syscall.SIGSTOP))
			for _, pid := range append(launchers, daemon.Process.Pid) {
				must(t, unix.Kill(pid, unix.SIGKILL))
			}
			_ = daemon.Wait()
			if runtime == "" && len(launchers) != 1 {
				t.Fatalf("launchers %v", launchers)
			}
			if len(processes(t, ns)) == 0 {
				t.Fatal("the step did not survive: nothing to sweep")
			}
			sweep(t, root, runtime)
			if left := processes(t, ns); len(left) > 0 {
				t.Errorf("left processes %v", left)
			}
			dirs, err := filepath.Glob(parents[0])
			must(t, err)
			if len(dirs) > 0 {
				t.Errorf("left cgroups %v", dirs)
			}
		})
	}
}

// sweep does what the next daemon does, twice, and closes it.
func sweep(t *testing.T, root, runtime string) {
	t.Helper()
	e := newExecutor(t, runc.Config{Root: root, Runtime: runtime, Network: network.Config{Mode: network.Host, BridgeName: testBridge}})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	must(t, e.Sweep(ctx))
	must(t, e.Sweep(ctx))
	must(t, e.Close())
	files, err := os.ReadDir(root)
	must(t, err)
	if len(files) > 0 {
		t.Errorf("left %v", files)
	}
	if _, err := os.Stat("/sys/class/net/" + testBridge); err == nil {
		t.Error("left the bridge")
	}
}
