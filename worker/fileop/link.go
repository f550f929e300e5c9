package fileop

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A linker makes hard links. It keeps the directories used last open: of a tree, most
// links are made between the same two, and the kernel need not look for them each time.
type linker struct{ from, to handle }

// link makes to another name of the file from, and reports whether it could.
func (l *linker) link(from, to string) bool {
	src, oldName, err := l.from.parent(from)
	if err != nil {
		return false
	}
	dst, newName, err := l.to.parent(to)
	if err != nil {
		return false
	}
	for {
		err := unix.Linkat(src, oldName, dst, newName, 0)
		if err != unix.EINTR {
			return err == nil
		}
	}
}

func (l *linker) close() {
	l.from.close()
	l.to.close()
}

// A handle is an open directory.
type handle struct {
	path string // "": none is open
	fd   int
}

// parent returns a descriptor of the directory of name, good until the next call, and the
// last element of name.
func (h *handle) parent(name string) (fd int, base string, err error) {
	dir, base := filepath.Split(name)
	if dir == h.path {
		return h.fd, base, nil
	}
	h.close()
	fd, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", err
	}
	h.path, h.fd = dir, fd
	return fd, base, nil
}

func (h *handle) close() {
	if h.path != "" {
		unix.Close(h.fd)
		h.path = ""
	}
}
