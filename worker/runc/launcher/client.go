package launcher

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrDied is the error of a container whose launcher ended before it. What it left is
// the caller's to remove.
var ErrDied = errors.New("the container launcher ended unexpectedly")

// helloTimeout bounds the start of a launcher. It takes some 20 ms.
const helloTimeout = 15 * time.Second

// A Client is the daemon's side of a running launcher. Its methods may be called at once.
type Client struct {
	Hello Hello

	mu      sync.Mutex // serialises messages on control
	control *net.UnixConn
	dead    chan struct{} // closed when the launcher has ended
}

// Start starts a launcher from a program whose main calls [Init] first: the open file,
// which should be a sealed memory file (see [Seal]), or this program itself if nil.
func Start(program *os.File) (*Client, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "control")
	defer theirs.Close()
	control, err := fileConn(fds[0])
	if err != nil {
		return nil, err
	}

	cmd := &exec.Cmd{
		Path:       "/proc/self/exe",
		Args:       []string{argv0},
		Env:        []string{}, // the daemon's environment is nobody's business
		Dir:        "/",
		Stderr:     os.Stderr,
		ExtraFiles: []*os.File{theirs},
		// A session of its own: an interrupt typed at the daemon's terminal is for the
		// daemon, which then ends the launcher in order.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if program != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, program)
		cmd.Path = fmt.Sprintf("/proc/self/fd/%d", controlFD+1)
	}
	if err := cmd.Start(); err != nil {
		control.Close()
		return nil, fmt.Errorf("start the container launcher: %w", err)
	}
	c := &Client{control: control, dead: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(c.dead)
	}()
	if err := c.greet(); err != nil {
		_ = cmd.Process.Kill()
		c.Close()
		return nil, fmt.Errorf("start the container launcher: %w", err)
	}
	return c, nil
}

func (c *Client) greet() error {
	if err := c.control.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	buf := make([]byte, 4096)
	n, err := c.control.Read(buf)
	if err != nil {
		return err
	}
	return json.Unmarshal(buf[:n], &c.Hello)
}

// Dead is closed when the launcher has ended.
func (c *Client) Dead() <-chan struct{} { return c.dead }

// Close kills all containers, and returns when the launcher has removed them and ended.
func (c *Client) Close() {
	c.control.Close()
	<-c.dead
}

// Run runs a container, or one more process in it, with the given standard files, which
// remain the caller's. When ctx is done the process is killed; Run returns after its end in
// any case. The error is [ErrDied], or says that the launcher could not be reached. If the
// request asks to watch, started is called when the command runs, with what sends signals
// to it.
func (c *Client) Run(ctx context.Context, req *Request, files [3]*os.File, started func(signal func(syscall.Signal) error)) (Result, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return Result{}, os.NewSyscallError("socketpair", err)
	}
	conn, err := fileConn(fds[0])
	if err != nil {
		_ = unix.Close(fds[1])
		return Result{}, err
	}
	defer conn.Close()
	err = c.sendFiles(fds[1], int(files[0].Fd()), int(files[1].Fd()), int(files[2].Fd()))
	_ = unix.Close(fds[1])
	if err != nil {
		return Result{}, fmt.Errorf("%w: %w", ErrDied, err)
	}
	// From here on the end of this half of the socket kills the container.
	stop := context.AfterFunc(ctx, func() { _ = conn.CloseWrite() })
	defer stop()
	out := json.NewEncoder(conn)
	if err := out.Encode(req); err != nil && ctx.Err() == nil {
		return Result{}, fmt.Errorf("%w: %w", ErrDied, err)
	}
	in := json.NewDecoder(conn)
	for {
		var event Event
		if err := in.Decode(&event); err != nil {
			if ctx.Err() != nil {
				// Too early for the launcher to know what to run.
				return Result{}, context.Cause(ctx)
			}
			return Result{}, ErrDied
		}
		if event.Result != nil {
			return *event.Result, nil
		}
		var mu sync.Mutex // serialises messages
		started(func(sig syscall.Signal) error {
			mu.Lock()
			defer mu.Unlock()
			return out.Encode(Command{Signal: int(sig)})
		})
	}
}

// sendFiles announces a container.
func (c *Client) sendFiles(fds ...int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _, err := c.control.WriteMsgUnix([]byte{0}, unix.UnixRights(fds...), nil)
	return err
}

func fileConn(fd int) (*net.UnixConn, error) {
	file := os.NewFile(uintptr(fd), "socket")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("not a unix socket")
	}
	return u, nil
}

// Seal copies a program into a memory file that nobody can change any more, not even a
// container that gets hold of it.
func Seal(program []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("dbuild-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3 all can be executed
		fd, err = unix.MemfdCreate("dbuild-init", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "dbuild-init")
	if _, err := file.Write(program); err != nil {
		file.Close()
		return nil, err
	}
	if err := file.Chmod(0o511); err != nil {
		file.Close()
		return nil, err
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		file.Close()
		return nil, os.NewSyscallError("fcntl", err)
	}
	return file, nil
}
