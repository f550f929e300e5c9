//go:build cgo

package launcher

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	_ "github.com/opencontainers/cgroups/devices" // device rules of cgroups
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// run makes the container, waits for its end and removes all of it. It closes stdio. When cancel is
// closed the container is killed.
func (s *server) run(req *Request, stdio [3]*os.File, cancel <-chan struct{}) Result {
	code, oom, leftover, err := s.runContainer(req, stdio, cancel)
	res := Result{Code: code, OOMKilled: oom}
	if err != nil {
		res.Err = err.Error()
	}
	if leftover != nil {
		res.Leftover = leftover.Error()
	}
	return res
}

func (s *server) runContainer(req *Request, stdio [3]*os.File, cancel <-chan struct{}) (code int, oom bool, leftover, err error) {
	defer closeAll(stdio)
	filter, err := s.filters.get(req.Seccomp, req.Spec)
	if err != nil {
		return 0, false, nil, err
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:      req.ID,
		Spec:            req.Spec,
		RootlessEUID:    req.Rootless,
		RootlessCgroups: req.Rootless,
	})
	if err != nil {
		return 0, false, nil, err
	}
	c, err := libcontainer.Create(s.stateDir(req), req.ID, config)
	if err != nil {
		return 0, false, nil, err
	}
	defer func() { leftover = c.Destroy() }()

	ours, theirs, err := filterSocket()
	if err != nil {
		return 0, false, nil, err
	}
	defer ours.Close()
	p := req.process()
	p.Stdin, p.Stdout, p.Stderr = stdio[0], stdio[1], stdio[2]
	p.ExtraFiles = []*os.File{theirs}
	p.Rlimits, err = rlimits(req.Spec.Process.Rlimits)
	if err == nil {
		err = c.Start(p)
	}
	theirs.Close()
	if err != nil {
		return 0, false, nil, err
	}
	// The init waits for leave to execute the command; nothing of the container's has
	// run yet.
	ended := make(chan struct{})
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		select {
		case <-cancel:
			_ = c.Signal(unix.SIGKILL) // takes all of its process namespace along
		case <-ended:
		}
	}()
	defer func() { <-killed }()
	defer close(ended)

	if filter != nil {
		err = filter.send(ours, req.Spec.Process.NoNewPrivileges)
	}
	ours.Close()
	if err == nil {
		err = c.Exec()
	}
	if err != nil {
		_ = c.Signal(unix.SIGKILL)
		_, _ = p.Wait()
		return 0, false, nil, err
	}
	closeAll(stdio)
	state, err := p.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, false, nil, err
	}
	code = exitCode(state)
	if code != 0 {
		oom = oomKilled(c)
	}
	return code, oom, nil, nil
}

func (r *Request) process() *libcontainer.Process {
	from := r.Spec.Process
	noNewPrivileges := from.NoNewPrivileges
	p := &libcontainer.Process{
		Args:            from.Args,
		Env:             from.Env,
		Cwd:             from.Cwd,
		UID:             int(from.User.UID),
		GID:             int(from.User.GID),
		AppArmorProfile: from.ApparmorProfile,
		Label:           from.SelinuxLabel,
		NoNewPrivileges: &noNewPrivileges,
		Init:            true,
	}
	for _, gid := range from.User.AdditionalGids {
		p.AdditionalGroups = append(p.AdditionalGroups, int(gid))
	}
	return p
}

// filterSocket returns both ends of the socket over which the init gets its filter.
func filterSocket() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "filter")
	file := os.NewFile(uintptr(fds[0]), "filter")
	defer file.Close()
	ours, err = net.FileConn(file)
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// exitCode is as a shell tells it.
func exitCode(state *os.ProcessState) int {
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return state.ExitCode()
}

// oomKilled looks in the container's memory cgroup, which is still there.
func oomKilled(c *libcontainer.Container) bool {
	state, err := c.State()
	if err != nil {
		return false
	}
	if dir := state.CgroupPaths["memory"]; dir != "" {
		return counter(filepath.Join(dir, "memory.oom_control"), "oom_kill") > 0
	}
	return counter(filepath.Join(state.CgroupPaths[""], "memory.events"), "oom_kill") > 0
}

// counter returns a value of a file with lines of a name and a number, 0 if there is none.
func counter(path, name string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && key == name {
			n, _ := strconv.Atoi(value)
			return n
		}
	}
	return 0
}

func rlimits(list []specs.POSIXRlimit) ([]configs.Rlimit, error) {
	var limits []configs.Rlimit
	for _, l := range list {
		number, ok := rlimitNumbers[strings.TrimPrefix(l.Type, "RLIMIT_")]
		if !ok {
			return nil, fmt.Errorf("resource limit %s is not known", l.Type)
		}
		limits = append(limits, configs.Rlimit{Type: number, Soft: l.Soft, Hard: l.Hard})
	}
	return limits, nil
}

var rlimitNumbers = map[string]int{
	"CPU": unix.RLIMIT_CPU, "FSIZE": unix.RLIMIT_FSIZE, "DATA": unix.RLIMIT_DATA,
	"STACK": unix.RLIMIT_STACK, "CORE": unix.RLIMIT_CORE, "RSS": unix.RLIMIT_RSS,
	"NPROC": unix.RLIMIT_NPROC, "NOFILE": unix.RLIMIT_NOFILE, "MEMLOCK": unix.RLIMIT_MEMLOCK,
	"AS": unix.RLIMIT_AS, "LOCKS": unix.RLIMIT_LOCKS, "SIGPENDING": unix.RLIMIT_SIGPENDING,
	"MSGQUEUE": unix.RLIMIT_MSGQUEUE, "NICE": unix.RLIMIT_NICE, "RTPRIO": unix.RLIMIT_RTPRIO,
	"RTTIME": unix.RLIMIT_RTTIME,
}
