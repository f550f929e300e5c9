package launcher

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A filter is a compiled seccomp filter.
type filter struct {
	flags   uintptr // of seccomp(2)
	program []byte  // array of struct sock_filter
}

const (
	instructionSize = 8
	maxInstructions = 4096 // BPF_MAXINSNS of the kernel
	noNewPrivs      = 1 << 0
)

// filterHeader precedes the program on the socket.
type filterHeader struct {
	Options uint32 // noNewPrivs
	Flags   uint32 // of seccomp(2)
	Length  uint32 // bytes of program that follow
}

const filterHeaderSize = 12

// send gives the filter to a container's init, which waits for leave to execute its
// command, and returns when all its threads have it.
func (f *filter) send(conn net.Conn, noNewPrivileges bool) error {
	h := filterHeader{Flags: uint32(f.flags), Length: uint32(len(f.program))}
	if noNewPrivileges {
		h.Options |= noNewPrivs
	}
	msg, err := binary.Append(make([]byte, 0, filterHeaderSize+len(f.program)), binary.NativeEndian, h)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write(append(msg, f.program...)); err != nil {
		return fmt.Errorf("send seccomp filter: %w", err)
	}
	var reply [4]byte
	if _, err := io.ReadFull(conn, reply[:]); err != nil {
		return fmt.Errorf("seccomp filter was not confirmed: %w", err)
	}
	if errno := unix.Errno(binary.NativeEndian.Uint32(reply[:])); errno != 0 {
		return fmt.Errorf("install seccomp filter: %w", errno)
	}
	return nil
}

// receiveFilter runs beside libcontainer's init in the same process, which must wait until
// its thread is ready. It ends without doing anything if the other end is closed.
func receiveFilter(ready chan<- struct{}) {
	// The thread's credentials are changed below: it must serve nothing else.
	runtime.LockOSThread()
	unix.CloseOnExec(filterFD)
	// A change of user in libcontainer's thread reaches all threads. Should the command
	// be allowed new privileges, this one must be able to install a filter nevertheless.
	_ = unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0)
	close(ready)

	err := installFilter()
	if errors.Is(err, io.EOF) {
		_ = unix.Close(filterFD)
		return
	}
	errno := unix.Errno(0)
	if err != nil && !errors.As(err, &errno) {
		errno = unix.EPROTO
	}
	var reply [4]byte
	binary.NativeEndian.PutUint32(reply[:], uint32(errno))
	_, _ = unix.Write(filterFD, reply[:]) // if this fails the launcher sees the end of the socket
	_ = unix.Close(filterFD)
}

func installFilter() error {
	buf, err := readFull(filterFD, filterHeaderSize)
	if err != nil {
		return err
	}
	var h filterHeader
	if _, err := binary.Decode(buf, binary.NativeEndian, &h); err != nil {
		return err
	}
	if h.Length == 0 || h.Length%instructionSize != 0 || h.Length > maxInstructions*instructionSize {
		return unix.EINVAL
	}
	// Aligned as the kernel's struct is.
	program := make([]unix.SockFilter, h.Length/instructionSize)
	raw, err := readFull(filterFD, int(h.Length))
	if err != nil {
		return unix.EPROTO
	}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&program[0])), h.Length), raw)

	if h.Options&noNewPrivs != 0 {
		err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	} else {
		err = regainCapabilities()
	}
	if err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	flags := uintptr(h.Flags) | unix.SECCOMP_FILTER_FLAG_TSYNC
	r, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	if r != 0 { // the thread that could not be given the filter
		return unix.ESRCH
	}
	return nil
}

// regainCapabilities makes the permitted capabilities of this thread effective again
// after a change to another user.
func regainCapabilities() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	for i := range data {
		data[i].Effective = data[i].Permitted
	}
	return unix.Capset(&hdr, &data[0])
}

// readFull reads n bytes from a blocking descriptor. It returns io.EOF if there are none.
func readFull(fd, n int) ([]byte, error) {
	buf := make([]byte, n)
	for got := 0; got < n; {
		m, err := unix.Read(fd, buf[got:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil, m == 0:
			return nil, io.EOF
		}
		got += m
	}
	return buf, nil
}
