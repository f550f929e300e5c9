package runc

import (
	"fmt"
	"io"
	"os"

	"github.com/containerd/console"
	"golang.org/x/sys/unix"
)

// A terminal is the daemon's side of a process's terminal.
type terminal struct {
	ready chan struct{} // closed when master is there, or never will be
	// master is nil after ready if the process has none. It is closed by stdio.
	master  *os.File
	resized func() // called after a change of size; nil if nobody has to know
}

// openConsoleSocket has the terminal made in the container: its standard input is a socket
// over which the terminal comes back.
func openConsoleSocket(in io.Reader, out io.Writer) (*stdio, error) {
	s := &stdio{terminal: &terminal{ready: make(chan struct{})}}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	s.in = os.NewFile(uintptr(fds[1]), "console")
	if s.out, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		s.in.Close()
		_ = unix.Close(fds[0])
		return nil, err
	}
	s.err = s.out
	_ = unix.SetNonblock(fds[0], true)
	socket := os.NewFile(uintptr(fds[0]), "console")
	s.keep(socket)
	s.copies.Go(func() {
		master, err := receiveTerminal(socket)
		if err != nil {
			close(s.terminal.ready) // the runtime says why there is none
			return
		}
		s.connect(master, in)
		s.copy(out, master)
	})
	return s, nil
}

// openTerminal makes a terminal here whose other side is all of the standard files. A
// runtime that finds it there makes another one in the container, and copies.
func openTerminal(in io.Reader, out io.Writer) (*stdio, error) {
	c, path, err := console.NewPty()
	if err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(c.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	c.Close()
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	s := &stdio{terminal: &terminal{ready: make(chan struct{})}}
	s.in, err = os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	s.out, s.err = s.in, s.in
	// The runtime makes it raw in a while. Until then it must not echo input either.
	if slave, err := console.ConsoleFromFile(s.in); err == nil {
		_ = slave.SetRaw()
	}
	master := terminalFile(fd)
	s.connect(master, in)
	s.copies.Go(func() { s.copy(out, master) })
	return s, nil
}

// connect begins to use a terminal.
func (s *stdio) connect(master *os.File, in io.Reader) {
	s.keep(master)
	s.terminal.master = master
	close(s.terminal.ready)
	if in == nil {
		return
	}
	// As with a pipe, this goroutine lives until in returns. The end of in means nothing to
	// a terminal.
	go func() { _, _ = io.Copy(master, in) }()
}

// resize sets the size of the terminal, if there is one.
func (s *stdio) resize(size *unix.Winsize) error {
	t := s.terminal
	if t == nil {
		return nil
	}
	<-t.ready
	if t.master == nil {
		return ErrNotRunning
	}
	conn, err := t.master.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	if err := conn.Control(func(fd uintptr) { ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) }); err != nil {
		return ErrNotRunning // closed
	}
	if ierr == nil && t.resized != nil {
		t.resized()
	}
	return ierr
}

func terminalFile(fd int) *os.File {
	_ = console.ClearONLCR(uintptr(fd)) // lines end as the process wrote them
	_ = unix.SetNonblock(fd, true)      // only then reads can be given up
	return os.NewFile(uintptr(fd), "terminal")
}

// receiveTerminal waits for the one file that comes over a socket.
func receiveTerminal(socket *os.File) (*os.File, error) {
	conn, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	name := make([]byte, unix.PathMax)
	oob := make([]byte, unix.CmsgSpace(4))
	var oobn int
	var rerr error
	err = conn.Read(func(fd uintptr) bool {
		_, oobn, _, _, rerr = unix.Recvmsg(int(fd), name, oob, unix.MSG_CMSG_CLOEXEC)
		return rerr != unix.EAGAIN
	})
	if err == nil {
		err = rerr
	}
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("terminal: message without a file")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("terminal: message without a file")
	}
	return terminalFile(fds[0]), nil
}
