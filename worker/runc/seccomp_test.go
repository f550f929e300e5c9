package runc_test

import (
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/dbuild/dbuild/worker/runc"
)

const probeEnv = "TEST_PROBE"

// probe prints what becomes of system calls in a container.
func probe() int {
	if os.Getenv(probeEnv) == "user" {
		fmt.Println("user", os.Geteuid())
		return 0
	}
	for _, call := range []struct {
		name    string
		number  uintptr
		a, b, c uintptr
	}{
		{"getpid", unix.SYS_GETPID, 0, 0, 0},
		{"add_key", unix.SYS_ADD_KEY, 0, 0, 0},
		{"keyctl", unix.SYS_KEYCTL, 0, 0, 0},
		{"bpf", unix.SYS_BPF, 99, 0, 0},
		{"kexec_load", unix.SYS_KEXEC_LOAD, 0, 0, 0},
		{"userfaultfd", unix.SYS_USERFAULTFD, 0, 0, 0},
		{"unshare user", unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0},
		{"clone3", unix.SYS_CLONE3, 0, 0, 0},
		{"socket unix", unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM, 0},
		{"socket vsock", unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0},
		{"socket alg", unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
		{"personality query", unix.SYS_PERSONALITY, 0xffffffff, 0, 0},
		{"personality no randomisation", unix.SYS_PERSONALITY, 0x0040000, 0, 0},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, 0, 0, 0},
		{"newer than all", 5000, 0, 0, 0},
		{"x32 newer than all", 0x40000000 + 5000, 0, 0, 0},
		{"x32 getpid", 0x40000000 + unix.SYS_GETPID, 0, 0, 0},
	} {
		_, _, errno := unix.Syscall(call.number, call.a, call.b, call.c)
		fmt.Printf("%s: %v\n", call.name, errno)
	}
	fmt.Println("executing:", unix.Exec("/bin/true", []string{"true"}, nil))
	return 1
}

// self returns what mounts this test program and its libraries into a container, and how it
// is started there.
func self(t *testing.T) (mounts []runc.Mount, env []string) {
	t.Helper()
	exe, err := os.Executable()
	must(t, err)
	mounts = append(mounts, runc.Mount{Type: "bind", Source: exe, Target: "/probe", ReadOnly: true})
	maps, err := os.ReadFile("/proc/self/maps")
	must(t, err)
	var dirs []string
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) != 6 || !strings.Contains(f[5], ".so") {
			continue
		}
		if dir := filepath.Dir(f[5]); !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
			mounts = append(mounts, runc.Mount{Type: "bind", Source: dir, Target: dir, ReadOnly: true})
		}
	}
	file, err := elf.Open(exe)
	must(t, err)
	defer file.Close()
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			name, err := io.ReadAll(p.Open())
			must(t, err)
			loader := strings.TrimRight(string(name), "\x00")
			mounts = append(mounts, runc.Mount{Type: "bind", Source: loader, Target: loader, ReadOnly: true})
		}
	}
	return mounts, []string{probeEnv + "=1", "LD_LIBRARY_PATH=" + strings.Join(dirs, ":")}
}

// TestSeccompSameAsRunc compares the filter that is compiled once with the one that runc
// compiles for each container.
func TestSeccompSameAsRunc(t *testing.T) {
	mounts, env := self(t)
	var results []string
	for _, c := range []runc.Config{{Runtime: "runc"}, {}, {AllowNewPrivileges: true}} {
		for _, user := range []string{"", "app"} {
			e := newExecutor(t, c)
			out, err := sh(t, e, runc.Process{Rootfs: newRootfs(t), Mounts: mounts, Env: env, User: user}, "/probe; grep Seccomp: /proc/self/status")
			must(t, err)
			results = append(results, out)
		}
	}
	for i, got := range results {
		if got != results[0] {
			t.Errorf("case %d differs: got\n%s\nrunc has\n%s", i, got, results[0])
		}
	}
	for _, want := range []string{"getpid: errno 0", "add_key: operation not permitted", "newer than all: function not implemented",
		"socket vsock: operation not permitted", "Seccomp:\t2"} {
		if !strings.Contains(results[0], want) {
			t.Errorf("no %q in\n%s", want, results[0])
		}
	}
}

func TestNewPrivileges(t *testing.T) {
	for _, allow := range []bool{false, true} {
		e := newExecutor(t, runc.Config{AllowNewPrivileges: allow})
		rootfs := newRootfs(t)
		exe, err := os.Executable()
		must(t, err)
		program, err := os.ReadFile(exe)
		must(t, err)
		must(t, os.WriteFile(rootfs+"/bin/suid", program, 0o755))
		must(t, os.Chmod(rootfs+"/bin/suid", 0o755|os.ModeSetuid))
		mounts, _ := self(t)
		out, err := sh(t, e, runc.Process{Rootfs: rootfs, User: "app", Mounts: mounts[1:], Env: []string{probeEnv + "=user"}},
			"grep -E 'Seccomp:|NoNew' /proc/self/status; suid")
		want := "NoNewPrivs:\t1\nSeccomp:\t2\nuser 1000"
		if allow {
			want = "NoNewPrivs:\t0\nSeccomp:\t2\nuser 0"
		}
		must(t, err)
		if out != want {
			t.Errorf("allowed %t: got %q, want %q", allow, out, want)
		}
	}
}

func TestCustomSeccompProfile(t *testing.T) {
	e := newExecutor(t, runc.Config{SeccompProfile: `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":5}]}`})
	out, err := sh(t, e, runc.Process{Rootfs: newRootfs(t)}, "mkdir /x || echo refused")
	if err != nil || out != "mkdir: can't create directory '/x': Input/output error\nrefused" {
		t.Errorf("got %q %v", out, err)
	}
}
