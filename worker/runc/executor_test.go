package runc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/solver/pb"

	"github.com/dbuild/dbuild/worker/runc"
)

// runtimes are those that every promise about a running process is tested with.
func runtimes(t *testing.T, test func(t *testing.T, e *runc.Executor)) {
	for _, runtime := range []string{"", "runc", "crun"} {
		name := runtime
		if name == "" {
			name = "linked"
		}
		t.Run(name, func(t *testing.T) { test(t, newExecutor(t, runc.Config{Runtime: runtime})) })
	}
}

func TestProcess(t *testing.T) {
	tests := []struct {
		name   string
		p      runc.Process
		script string
		want   string
	}{
		{"output", runc.Process{}, "echo hello", "hello"},
		{"environment", runc.Process{Env: []string{"A=1", "PATH=/bin", "HOME=/h"}}, "echo $A $PATH $HOME; env | grep -cvE '^(PWD|SHLVL|OLDPWD)='", "1 /bin /h\n3"},
		{"default environment", runc.Process{}, "echo $HOME $PATH", "/root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
		{"root", runc.Process{}, "grep -E '^(Uid|Groups)' /proc/self/status", "Uid:\t0\t0\t0\t0\nGroups:\t0"},
		{"named user", runc.Process{User: "app"}, "id -u; id -g; id -G; echo $HOME", "1000\n1001\n1001 2002\n/home/app"},
		{"user and group", runc.Process{User: "app:other"}, "id -u; id -g; grep Groups /proc/self/status", "1000\n3003\nGroups:\t3003"},
		{"number without entry", runc.Process{User: "4242"}, "id -u; id -g; echo $HOME", "4242\n0\n/"},
		{"numbers", runc.Process{User: "4242:4343"}, "id -u; id -g", "4242\n4343"},
		{"default directory", runc.Process{}, "pwd", "/"},
		{"directory", runc.Process{Cwd: "/tmp"}, "pwd", "/tmp"},
		{"missing directory", runc.Process{Cwd: "/new/dir"}, "pwd", "/new/dir"},
		{"hostname", runc.Process{}, "hostname", "buildkitsandbox"},
		{"other hostname", runc.Process{Hostname: "box"}, "hostname; grep -c box /etc/hosts", "box\n1"},
		{"hosts", runc.Process{ExtraHosts: []runc.HostIP{{Host: "db", IP: netip.MustParseAddr("192.0.2.9")}}}, "grep 192 /etc/hosts", "192.0.2.9\tdb"},
		{"hosts is read-only", runc.Process{}, "echo x >> /etc/hosts || true", "/bin/sh: can't create /etc/hosts: Read-only file system"},
		{"capabilities", runc.Process{}, "grep Cap /proc/self/status", "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000"},
		{"capabilities of a user", runc.Process{User: "app"}, "grep -E 'Cap(Eff|Prm|Inh)' /proc/self/status", "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000"},
		{"seccomp", runc.Process{}, "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status", "NoNewPrivs:\t1\nSeccomp:\t2"},
		{"insecure", runc.Process{Security: pb.SecurityMode_INSECURE}, "grep -E 'NoNewPrivs|Seccomp:' /proc/self/status; mkdir /m && mount -t tmpfs x /m && echo mounted; umount /m; test -w /sys/firmware && echo sys", "NoNewPrivs:\t0\nSeccomp:\t0\nmounted\nsys"},
		{"no mounting", runc.Process{}, "mkdir /m; mount -t tmpfs x /m 2>/dev/null || echo refused", "refused"},
		{"empty stdin", runc.Process{}, "cat; test -t 0 || echo no terminal", "no terminal"},
		{"stdin", runc.Process{Stdin: strings.NewReader("typed")}, "cat", "typed"},
		{"only standard files", runc.Process{}, "exec ls /proc/self/fd", "0\n1\n2\n3"}, // 3 is what ls reads
		{"ulimit", runc.Process{Ulimits: []*pb.Ulimit{{Name: "nofile", Soft: 321, Hard: 654}}}, "ulimit -n; ulimit -Hn; ulimit -c", "321\n654\n0"},
		{"shared memory", runc.Process{}, "df -m /dev/shm | awk 'NR==2{print $2}'", "64"},
		{"shared memory size", runc.Process{Mounts: []runc.Mount{{Type: "tmpfs", Target: "/dev/shm", Size: 8 << 20}}}, "df -m /dev/shm | awk 'NR==2{print $2}'; mount | grep -c /dev/shm", "8\n1"},
		{"tmpfs size", runc.Process{Mounts: []runc.Mount{{Type: "tmpfs", Target: "/t", Size: 1 << 20}}}, "df -k /t | awk 'NR==2{print $2}'", "1024"},
		{"relative target", runc.Process{Cwd: "/w", Mounts: []runc.Mount{{Type: "tmpfs", Target: "rel"}}}, "grep -c ' /w/rel ' /proc/mounts", "1"},
		{"masked paths", runc.Process{}, "cat /proc/timer_list /proc/kcore 2>/dev/null | head -c 10; ls /sys/firmware; echo 1 > /proc/sys/kernel/panic || true", "/bin/sh: can't create /proc/sys/kernel/panic: Read-only file system"},
		{"devices", runc.Process{}, "mknod /d b 254 0 && cat /d 2>&1 >/dev/null || echo refused", "cat: can't open '/d': Operation not permitted\nrefused"},
		{"process namespace", runc.Process{}, "echo $$", "1"},
	}
	runtimes(t, func(t *testing.T, e *runc.Executor) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				test.p.Rootfs = newRootfs(t)
				if r, ok := test.p.Stdin.(*strings.Reader); ok {
					_, err := r.Seek(0, 0)
					must(t, err)
				}
				out, err := sh(t, e, test.p, test.script)
				must(t, err)
				if out != test.want && test.want != "" {
					t.Errorf("got\n%s\nwant\n%s", out, test.want)
				}
			})
		}
	})
}

func TestExit(t *testing.T) {
	tests := []struct {
		args []string
		code int
		text string
	}{
		{[]string{"/bin/false"}, 1, ""},
		{[]string{"/bin/sh", "-c", "exit 42"}, 42, ""},
		{[]string{"/bin/sh", "-c", "sh -c 'kill -15 $$'; exit $?"}, 143, ""},
		{[]string{"nothing"}, 127, "nothing"},
		{[]string{"/no/such/file"}, 127, "/no/such/file"},
		{[]string{"/etc/passwd"}, 126, "denied"},
	}
	runtimes(t, func(t *testing.T, e *runc.Executor) {
		for _, test := range tests {
			t.Run(strings.Join(test.args, " "), func(t *testing.T) {
				err := e.Run(context.Background(), runc.Process{ID: newID(), Rootfs: newRootfs(t), Args: test.args})
				var exit *runc.ExitError
				if !errors.As(err, &exit) || exit.Code != test.code || exit.OOMKilled {
					t.Fatalf("got %v, want code %d", err, test.code)
				}
				if !strings.Contains(strings.ToLower(err.Error()), test.text) {
					t.Errorf("error %q does not mention %q", err, test.text)
				}
			})
		}
	})
}

func TestKilledFromOutside(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	out := newWatcher()
	result := make(chan error, 1)
	go func() {
		result <- e.Run(context.Background(), runc.Process{ID: newID(), Rootfs: newRootfs(t), Stdout: out,
			Args: []string{"/bin/sh", "-c", "readlink /proc/self/ns/pid; exec sleep 1000"}})
	}()
	ns := out.line(t)
	killAll(t, ns)
	var exit *runc.ExitError
	if err := wait(t, result); !errors.As(err, &exit) || exit.Code != 137 || exit.OOMKilled {
		t.Fatalf("got %v, want code 137", err)
	}
}

func TestOutOfMemory(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	p := runc.Process{Rootfs: newRootfs(t), Resources: &pb.LinuxResources{Memory: 64 << 20, MemorySwap: 64 << 20}}
	_, err := sh(t, e, p, "tail /dev/zero")
	var exit *runc.ExitError
	if !errors.As(err, &exit) || !exit.OOMKilled || exit.Code != 137 {
		t.Fatalf("got %v, want out of memory", err)
	}
	out, err := sh(t, e, p, "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max")
	if err != nil || out != "67108864" {
		t.Errorf("limit seen inside: %q %v", out, err)
	}
}

func TestMounts(t *testing.T) {
	runtimes(t, func(t *testing.T, e *runc.Executor) {
		dir := t.TempDir()
		must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o644))
		p := runc.Process{Rootfs: newRootfs(t), Mounts: []runc.Mount{
			{Type: "bind", Source: dir, Target: "/rw"},
			{Type: "bind", Source: dir, Target: "/deep/er/ro", ReadOnly: true},
			{Type: "bind", Source: filepath.Join(dir, "file"), Target: "/run/secrets/one", ReadOnly: true},
			{Type: "tmpfs", Target: "/rw/inner"},
		}}
		out, err := sh(t, e, p, "cat /deep/er/ro/file /run/secrets/one; touch /deep/er/ro/x 2>/dev/null || echo refused; touch /rw/new; touch /rw/inner/hidden")
		must(t, err)
		if want := "contentcontentrefused"; out != want {
			t.Errorf("got %q, want %q", out, want)
		}
		if _, err := os.Stat(filepath.Join(dir, "new")); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "inner/hidden")); err == nil {
			t.Error("a file in a tmpfs mount came through")
		}
	})
}

func TestTmpfs(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	p := runc.Process{Rootfs: newRootfs(t), Mounts: []runc.Mount{
		{Type: "tmpfs", Target: "/t"}, {Type: "tmpfs", Target: "/u", Mode: 0o700, UID: 1000, GID: 1001},
	}}
	out, err := sh(t, e, p, "stat -c '%a %u %g' /t /u")
	must(t, err)
	if want := "1777 0 0\n700 1000 1001"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
}

func TestReadOnlyRoot(t *testing.T) {
	runtimes(t, func(t *testing.T, e *runc.Executor) {
		out, err := sh(t, e, runc.Process{Rootfs: newRootfs(t), ReadOnly: true}, "touch /x 2>/dev/null || echo refused; echo y > /dev/shm/y && echo ok")
		must(t, err)
		if want := "refused\nok"; out != want {
			t.Errorf("got %q, want %q", out, want)
		}
	})
}

func TestRefused(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	rootfs := newRootfs(t)
	tests := []struct {
		name string
		p    runc.Process
		text string
	}{
		{"empty id", runc.Process{ID: ""}, "container id"},
		{"path as id", runc.Process{ID: "../x"}, "container id"},
		{"long id", runc.Process{ID: strings.Repeat("x", 65)}, "container id"},
		{"security mode", runc.Process{ID: "x", Security: 2}, "security mode 2"},
		{"negative security mode", runc.Process{ID: "x", Security: -1}, "security mode -1"},
		{"network mode", runc.Process{ID: "x", Network: 99}, "network mode 99"},
		{"user id too large", runc.Process{ID: "x", User: "2147483648"}, "user"},
		{"user id overflowing", runc.Process{ID: "x", User: "4294967296"}, "user"},
		{"negative user id", runc.Process{ID: "x", User: "-1"}, "user"},
		{"unknown user", runc.Process{ID: "x", User: "nobody-here"}, "user"},
		{"ulimit", runc.Process{ID: "x", Ulimits: []*pb.Ulimit{{Name: "none"}}}, "ulimit"},
		{"mount type", runc.Process{ID: "x", Mounts: []runc.Mount{{Type: "nfs", Target: "/x"}}}, "nfs"},
		{"mount source", runc.Process{ID: "x", Mounts: []runc.Mount{{Type: "bind", Source: "/no/such", Target: "/x"}}}, "/no/such"},
		{"mount over the root", runc.Process{ID: "x", Mounts: []runc.Mount{{Type: "tmpfs", Target: "/."}}}, "root file system"},
		{"no command", runc.Process{ID: "x"}, "no command"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			test.p.Rootfs = rootfs
			if test.name != "no command" {
				test.p.Args = []string{"/bin/touch", "/ran"}
			}
			err := e.Run(context.Background(), test.p)
			if err == nil || !strings.Contains(err.Error(), test.text) {
				t.Errorf("got %v, want an error about %q", err, test.text)
			}
			if strings.Contains(fmt.Sprint(err), "pb.") {
				t.Errorf("error %q names a type", err)
			}
		})
	}
	if _, err := os.Lstat(filepath.Join(rootfs, "ran")); err == nil {
		t.Error("a refused process ran")
	}
}

func TestConcurrent(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	rootfs := newRootfs(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			var out bytes.Buffer
			err := e.Run(context.Background(), runc.Process{ID: newID(), Rootfs: rootfs, Stdout: &out,
				Args: []string{"/bin/sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)}})
			code := 0
			var exit *runc.ExitError
			if errors.As(err, &exit) {
				code = exit.Code
			} else if err != nil {
				t.Error(err)
			}
			if code != i || out.String() != fmt.Sprintln(i) {
				t.Errorf("run %d: code %d, output %q", i, code, out.String())
			}
		})
	}
	wg.Wait()
}

// TestBackgroundProcess checks that a process which outlives the command does not keep Run
// waiting for the end of its output.
func TestBackgroundProcess(t *testing.T) {
	runtimes(t, func(t *testing.T, e *runc.Executor) {
		result := make(chan error, 1)
		rootfs := newRootfs(t)
		go func() {
			_, err := sh(t, e, runc.Process{Rootfs: rootfs}, "sleep 1000 & echo done")
			result <- err
		}()
		must(t, wait(t, result))
	})
}

// TestOrder checks that both outputs keep their order if they go to the same writer.
func TestOrder(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	out, err := sh(t, e, runc.Process{Rootfs: newRootfs(t)}, "for i in $(seq 300); do echo $i; echo $i >&2; done")
	must(t, err)
	var want strings.Builder
	for i := range 300 {
		fmt.Fprintf(&want, "%d\n%d\n", i+1, i+1)
	}
	if out+"\n" != want.String() {
		t.Errorf("got %s", out)
	}
}

// TestMuchOutput checks that output is complete and passed on in order.
func TestMuchOutput(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	out, err := sh(t, e, runc.Process{Rootfs: newRootfs(t)}, "seq 200000")
	must(t, err)
	lines := strings.Split(out, "\n")
	if len(lines) != 200000 {
		t.Fatalf("%d lines", len(lines))
	}
	for i, line := range lines {
		if line != fmt.Sprint(i+1) {
			t.Fatalf("line %d is %q", i+1, line)
		}
	}
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("full") }

func TestWriterFails(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	err := e.Run(context.Background(), runc.Process{ID: newID(), Rootfs: newRootfs(t), Stdout: failingWriter{}, Args: []string{"/bin/seq", "100000"}})
	if err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("got %v", err)
	}
}

func TestRuntimeName(t *testing.T) {
	for runtime, want := range map[string]string{"": "libcontainer", "runc": "runc version ", "crun": "crun version "} {
		e := newExecutor(t, runc.Config{Runtime: runtime})
		if got := e.Runtime(); !strings.HasPrefix(got, want) {
			t.Errorf("runtime %q is %q", runtime, got)
		}
	}
	if _, err := runc.New(runc.Config{Root: t.TempDir(), Runtime: "no-such-runtime"}); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("a missing runtime: %v", err)
	}
}
