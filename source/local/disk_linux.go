package local

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// futimens sets the times of an open file.
func futimens(fd int, mtime int64) error {
	ts := times(mtime)
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts[0])), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
