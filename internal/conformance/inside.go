package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// insideArg makes this program the first process of the namespaces of a leaf.
const insideArg = "inside"

// memoryLimit is what all processes of a leaf may use together.
const memoryLimit = 4 << 30

// outsideAddress is where the stand-in for the internet answers.
const outsideAddress = "10.77.0.1"

// A place is what a leaf needs to run.
type place struct {
	Tmp      string // scratch space, removed afterwards
	Fixtures string
	Bin      string // first in PATH
	Module   string // upstream's
	Dir      string // where the test runs: its package
	Test     string
	Pattern  string
	CNI      bool
	Timeout  time.Duration
}

// inside runs one leaf as process 1 of new mount, pid, network, uts and ipc namespaces. All
// that the leaf leaves behind ends with this process.
func inside() {
	var p place
	err := json.Unmarshal([]byte(os.Args[2]), &p)
	if err == nil {
		err = p.run()
	}
	if err != nil {
		fmt.Println("conformance:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (p *place) run() error {
	for _, step := range []func() error{p.limitMemory, p.mounts, p.network, p.files} {
		if err := step(); err != nil {
			return err
		}
	}
	f := &fixtures{dir: p.Fixtures}
	outside := exec.Command("/proc/self/exe", outsideArg, f.dir)
	outside.Stdout, outside.Stderr = os.Stdout, os.Stderr
	if err := outside.Start(); err != nil {
		return err
	}
	test := exec.Command(p.Test, "-test.v", "-test.timeout", "0", "-test.parallel", "2", "-test.run", p.Pattern)
	test.Dir, test.Env = p.Dir, p.environment(f)
	test.Stdout, test.Stderr = os.Stdout, os.Stdout
	if err := test.Start(); err != nil {
		return err
	}
	late := time.AfterFunc(p.Timeout, func() {
		fmt.Println(timeoutLine, p.Timeout)
		// Both show where they stand before they end.
		if dt, err := os.ReadFile(p.daemonPID()); err == nil {
			if pid, err := strconv.Atoi(strings.TrimSpace(string(dt))); err == nil {
				_ = unix.Kill(pid, unix.SIGQUIT)
			}
		}
		_ = test.Process.Signal(unix.SIGQUIT)
		time.AfterFunc(10*time.Second, func() { _ = test.Process.Kill() })
	})
	defer late.Stop()
	err := reapUntil(test.Process.Pid)
	p.report()
	return err
}

// reapUntil waits for every process that ends, as process 1 must, until pid has.
func reapUntil(pid int) error {
	for {
		var status unix.WaitStatus
		got, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait: %w", err)
		case got == pid:
			if status.Signaled() {
				fmt.Println("conformance: the test ended by", status.Signal())
			}
			return nil
		}
	}
}

// report adds the log of the daemon and what is still mounted to the log of the leaf.
func (p *place) report() {
	if dt, err := os.ReadFile(p.daemonLog()); err == nil && len(dt) > 0 {
		fmt.Printf("%s\n%s", daemonLogLine, dt)
	}
	if dt, err := os.ReadFile("/proc/self/mountinfo"); err == nil {
		if n := bytes.Count(dt, []byte(" "+p.scratch()+"/")); n > 0 {
			fmt.Println("conformance: mounts left:", n)
		}
	}
}

func (p *place) scratch() string   { return filepath.Join(p.Tmp, "t") }
func (p *place) home() string      { return filepath.Join(p.Tmp, "home") }
func (p *place) daemonLog() string { return filepath.Join(p.Tmp, "daemon.log") }
func (p *place) daemonPID() string { return filepath.Join(p.Tmp, "daemon.pid") }

func (p *place) environment(f *fixtures) []string {
	return []string{
		"PATH=" + p.Bin + ":" + f.path() + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME=" + p.home(), "TMPDIR=" + p.scratch(), "USER=root", "GOTRACEBACK=single",
		mirrorVariable + "=" + f.mirror(),
		"BUILDKIT_TEST_SIGN_FIXTURES=" + f.keys(),
		"BUILDKIT_RUN_NETWORK_INTEGRATION_TESTS=1",
		"BUILDKIT_CNI_INIT_LOCK_PATH=/run/buildkit_cni_bridge.lock",
		"REGISTRY_VALIDATION_DISABLED=true", // of the registry's manifests: the foreign layer has no blob
		daemonLog + "=" + p.daemonLog(),
		daemonPID + "=" + p.daemonPID(),
	}
}

// mounts gives the leaf a disposable view of what daemons and tests write to, which some do
// where they are: in the directory of their sources.
func (p *place) mounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	ns := filepath.Join(p.Tmp, "ns")
	for _, d := range []string{p.scratch(), p.home(), ns} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	list := []struct{ what, where, kind, data string }{
		{"proc", "/proc", "proc", ""},
		{"tmpfs", ns, "tmpfs", "mode=755"},
		{"tmpfs", "/run", "tmpfs", "mode=755"},
	}
	for _, m := range list {
		if err := unix.Mount(m.what, m.where, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.where, err)
		}
	}
	for _, d := range []string{"/etc", "/opt", "/var/lib", (&fixtures{dir: p.Fixtures}).keys(), p.Module} {
		upper := filepath.Join(ns, strings.ReplaceAll(d[1:], "/", "_"))
		work := upper + ".work"
		for _, d := range []string{upper, work} {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount("overlay", d, "overlay", 0, "lowerdir="+d+",upperdir="+upper+",workdir="+work); err != nil {
			return fmt.Errorf("mount overlay over %s: %w", d, err)
		}
	}
	return nil
}

// network brings up the namespace's own loopback and the address of the stand-in internet:
// on the loopback, or with CNI on a device as machines have one, which containers can reach
// through their bridge.
func (p *place) network() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	at, mask := lo, "/32"
	if p.CNI {
		mask = "/24"
		at = &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "ext0"}}
		if err := netlink.LinkAdd(at); err != nil {
			return fmt.Errorf("add ext0: %w", err)
		}
		if err := netlink.LinkSetUp(at); err != nil {
			return err
		}
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
			return err
		}
	}
	addr, err := netlink.ParseAddr(outsideAddress + mask)
	if err != nil {
		return err
	}
	return netlink.AddrAdd(at, addr)
}

// files writes what the machine of a test has under /etc.
func (p *place) files() error {
	f := &fixtures{dir: p.Fixtures}
	for _, d := range []string{"/etc/buildkit", "/opt/cni/bin", "/var/lib/cni", "/run/lock"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	// resolv.conf may be a link into a directory that is not there.
	if err := os.Remove("/etc/resolv.conf"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	write := map[string]string{
		"/etc/resolv.conf": "nameserver " + outsideAddress + "\n",
		"/etc/hosts":       "127.0.0.1 localhost\n",
	}
	if p.CNI {
		for _, name := range []string{"cni.json", "dns-cni.conflist"} {
			dt, err := os.ReadFile(filepath.Join(p.Module, "hack/fixtures", name))
			if err != nil {
				return err
			}
			write["/etc/buildkit/"+name] = string(dt)
		}
		plugins, err := filepath.Glob("/usr/lib/cni/*")
		if err != nil {
			return err
		}
		for _, plugin := range plugins {
			if err := os.Symlink(plugin, filepath.Join("/opt/cni/bin", filepath.Base(plugin))); err != nil {
				return err
			}
		}
	}
	const authorities = "/etc/ssl/certs/ca-certificates.crt"
	known, err := os.ReadFile(authorities)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	ours, err := os.ReadFile(f.authority())
	if err != nil {
		return err
	}
	write[authorities] = string(known) + string(ours)
	for name, text := range write {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// memoryGroup is the control group of a leaf and the file in it that has the limit.
func memoryGroup(tmp string) (dir, limit string) {
	root, limit := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat(root); err != nil {
		root, limit = "/sys/fs/cgroup", "memory.max"
	}
	return filepath.Join(root, filepath.Base(tmp)), limit
}

// limitMemory puts this process into a memory control group, if there are any.
func (p *place) limitMemory() error {
	group, limit := memoryGroup(p.Tmp)
	if err := os.Mkdir(group, 0o755); err != nil {
		return nil
	}
	if err := os.WriteFile(filepath.Join(group, limit), strconv.AppendInt(nil, memoryLimit, 10), 0); err != nil {
		return nil
	}
	return os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte("0"), 0)
}
