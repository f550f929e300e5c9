//go:build cgo

package launcher

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/debug"
	"strconv"
	"sync"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// A server is the launcher's side.
type server struct {
	filters filters
	state   *os.File       // directory in memory for the containers' state, nil if there can be none
	running sync.WaitGroup // containers

	mu      sync.Mutex
	watched map[string]*libcontainer.Container // under mu: those that may get further processes
}

// serveControl serves the daemon until it closes the control socket, then waits until
// all containers are gone. It returns the exit status of the process.
func serveControl() int {
	logrus.SetOutput(io.Discard) // all that matters is in the result
	// Containers' inits get this from libcontainer: they have nothing to do in parallel.
	_ = os.Setenv("GOMAXPROCS", "1")
	// Few and short-lived allocations: a small heap is collected often but quickly.
	debug.SetMemoryLimit(24 << 20)

	unix.CloseOnExec(controlFD)
	conn, err := net.FileConn(os.NewFile(controlFD, "control"))
	if err != nil {
		return 1
	}
	control, ok := conn.(*net.UnixConn)
	if !ok {
		return 1
	}
	defer control.Close()
	hello, err := json.Marshal(Hello{Runc: RuncVersion(nil), Seccomp: SeccompVersion()})
	if err != nil {
		return 1
	}
	if _, err := control.Write(hello); err != nil {
		return 1
	}

	s := &server{watched: map[string]*libcontainer.Container{}}
	s.state, _ = memoryDir() // else it is kept where the requests say
	defer s.running.Wait()
	for {
		files, err := receiveFiles(control)
		if err != nil {
			return 0 // the daemon is gone, or has no more use for us
		}
		s.running.Go(func() { s.serve(files) })
	}
}

// receiveFiles returns the descriptors that come with one message: a container's socket
// and its standard files.
func receiveFiles(control *net.UnixConn) ([4]*os.File, error) {
	var files [4]*os.File
	buf := make([]byte, 1)
	oob := make([]byte, unix.CmsgSpace(len(files)*4))
	n, oobn, _, _, err := control.ReadMsgUnix(buf, oob)
	if err != nil {
		return files, err
	}
	if n == 0 {
		return files, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return files, err
	}
	if len(messages) != 1 {
		return files, errors.New("message without files")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return files, err
	}
	if len(fds) != len(files) {
		for _, fd := range fds {
			_ = unix.Close(fd)
		}
		return files, fmt.Errorf("message with %d files", len(fds))
	}
	for i, fd := range fds {
		unix.CloseOnExec(fd)
		files[i] = os.NewFile(uintptr(fd), "received")
	}
	return files, nil
}

// serve runs the one container asked for on its socket, files[0].
func (s *server) serve(files [4]*os.File) {
	stdio := [3]*os.File(files[1:])
	conn, err := net.FileConn(files[0])
	files[0].Close()
	if err != nil {
		closeAll(stdio)
		return
	}
	defer conn.Close()

	in := json.NewDecoder(conn)
	req, err := readRequest(in)
	if err != nil {
		closeAll(stdio)
		return // whoever asked is gone
	}
	out := json.NewEncoder(conn)
	r := &run{s: s, req: req, stdio: stdio, cancel: make(chan struct{})}
	if req.Watch {
		r.started = func() { _ = out.Encode(Event{}) }
	}
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		for {
			var c Command
			if in.Decode(&c) != nil {
				close(r.cancel) // the end of what is sent to us means kill
				return
			}
			r.signal(c.Signal)
		}
	}()

	_ = out.Encode(Event{Result: r.do()})
	// Our half is closed first: the client answers by closing its own, which ends the
	// goroutine above.
	if u, ok := conn.(*net.UnixConn); ok {
		_ = u.CloseWrite()
	}
	<-watched
}

func readRequest(in *json.Decoder) (*Request, error) {
	req := new(Request)
	if err := in.Decode(req); err != nil {
		return nil, err
	}
	if req.Exec != nil && req.Watch {
		return req, nil
	}
	if req.Spec == nil || req.Spec.Process == nil || req.Spec.Linux == nil || req.Spec.Process.Capabilities == nil {
		return nil, errors.New("incomplete request")
	}
	return req, nil
}

func closeAll(files [3]*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// memoryDir returns the root of a file system in memory that is mounted nowhere and ends
// with this process. libcontainer writes and removes some files for each container, which
// on a disk costs more than making the container's cgroups.
func memoryDir() (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "mode", "700"); err != nil {
		return nil, err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "state"), nil
}

// stateDir is the directory for the state of a container.
func (s *server) stateDir(req *Request) string {
	if s.state == nil {
		return req.StateDir
	}
	return "/proc/self/fd/" + strconv.Itoa(int(s.state.Fd()))
}
