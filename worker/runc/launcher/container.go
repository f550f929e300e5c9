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
	"sync"
	"syscall"

	_ "github.com/opencontainers/cgroups/devices" // device rules of cgroups
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A run is one process while it is served.
type run struct {
	s       *server
	req     *Request
	stdio   [3]*os.File
	started func()        // tells the client; nil if it does not watch
	cancel  chan struct{} // when closed the process is killed

	mu      sync.Mutex
	process *os.Process // under mu; nil if it ended, or is not watched
}

// do carries the request out and closes the standard files.
func (r *run) do() *Result {
	defer closeAll(r.stdio)
	res := new(Result)
	var leftover, err error
	if r.req.Exec != nil {
		res.Code, err = r.exec()
	} else {
		res.Code, res.OOMKilled, leftover, err = r.container()
	}
	if err != nil {
		res.Err = err.Error()
	}
	if leftover != nil {
		res.Leftover = leftover.Error()
	}
	return res
}

// container makes the container, waits for its end and removes all of it.
func (r *run) container() (code int, oom bool, leftover, err error) {
	s, req := r.s, r.req
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
	p, err := r.newProcess(req.Spec.Process, theirs)
	if err == nil {
		p.Init = true
		err = c.Start(p)
	}
	theirs.Close()
	if err != nil {
		return 0, false, nil, err
	}
	// The init waits for leave to execute the command; nothing of the container's has
	// run yet.
	defer r.killOnCancel(func() {
		_ = c.Signal(unix.SIGKILL) // takes all of its process namespace along
	})()

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
	if r.started != nil {
		if err := r.find(p); err != nil {
			_ = c.Signal(unix.SIGKILL)
			_, _ = p.Wait()
			return 0, false, nil, err
		}
		s.watch(req.ID, c)
		defer s.watch(req.ID, nil)
		r.started()
	}
	code, err = r.wait(p)
	if code != 0 {
		oom = oomKilled(c)
	}
	return code, oom, nil, err
}

// exec runs one more process in a container.
func (r *run) exec() (code int, err error) {
	r.s.mu.Lock()
	c := r.s.watched[r.req.ID]
	r.s.mu.Unlock()
	if c == nil {
		return 0, errors.New("the container does not run")
	}
	// The end of this socket tells the process that it gets no filter from here.
	ours, theirs, err := filterSocket()
	if err != nil {
		return 0, err
	}
	ours.Close()
	defer theirs.Close()
	p, err := r.newProcess(r.req.Exec, theirs)
	if err != nil {
		return 0, err
	}
	if err := c.Start(p); err != nil {
		return 0, err
	}
	if err := r.find(p); err != nil {
		_ = p.Signal(unix.SIGKILL)
		_, _ = p.Wait()
		return 0, err
	}
	defer r.killOnCancel(func() { r.signal(int(unix.SIGKILL)) })()
	r.started()
	return r.wait(p)
}

// killOnCancel kills the process when the client goes. The returned function ends that.
func (r *run) killOnCancel(kill func()) (stop func()) {
	ended := make(chan struct{})
	killed := make(chan struct{})
	go func() {
		defer close(killed)
		select {
		case <-r.cancel:
			kill()
		case <-ended:
		}
	}()
	return func() {
		close(ended)
		<-killed
	}
}

// find keeps hold of a process that was not waited for yet, so that signals reach it and
// never a later process with its number.
func (r *run) find(p *libcontainer.Process) error {
	pid, err := p.Pid()
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.process, err = os.FindProcess(pid)
	return err
}

// wait waits until a process has ended.
func (r *run) wait(p *libcontainer.Process) (code int, err error) {
	closeAll(r.stdio)
	state, err := p.Wait()
	r.mu.Lock()
	if r.process != nil {
		_ = r.process.Release()
		r.process = nil
	}
	r.mu.Unlock()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	return exitCode(state), nil
}

// signal sends a signal to the command, if it still runs.
func (r *run) signal(sig int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.process != nil {
		_ = r.process.Signal(unix.Signal(sig))
	}
}

// watch keeps a container for further processes; nil ends that.
func (s *server) watch(id string, c *libcontainer.Container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c == nil {
		delete(s.watched, id)
		return
	}
	s.watched[id] = c
}

// newProcess translates a process. Its first file beside the standard ones is the end of
// the socket of its filter.
func (r *run) newProcess(from *specs.Process, filter *os.File) (*libcontainer.Process, error) {
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
		ExtraFiles:      []*os.File{filter},
	}
	for _, gid := range from.User.AdditionalGids {
		p.AdditionalGroups = append(p.AdditionalGroups, int(gid))
	}
	if from.Terminal {
		p.ConsoleSocket = r.stdio[0]
	} else {
		p.Stdin, p.Stdout, p.Stderr = r.stdio[0], r.stdio[1], r.stdio[2]
	}
	var err error
	p.Rlimits, err = rlimits(from.Rlimits)
	return p, err
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
