package worker

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/dbuild/dbuild/internal/treehash"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// A liveDir reads a directory that a process may be changing. Each path is looked up by the
// kernel as if the directory were the root, so that no link leads out of it, whatever
// changes meanwhile. Only regular files are opened, and opening never waits.
type liveDir struct{ root *os.File }

var _ treehash.FS = (*liveDir)(nil)

func openLive(dir string) (*liveDir, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: "mount", Err: err}
	}
	return &liveDir{os.NewFile(uintptr(fd), dir)}, nil
}

func (d *liveDir) close() { d.root.Close() }

// inMount is a path as the container's user means it.
func inMount(name string) string { return path.Clean("/" + name) }

// open opens a path. Symlinks on the way are followed, one at its end is not.
func (d *liveDir) open(name string, flags uint64) (*os.File, error) {
	p := strings.TrimPrefix(inMount(name), "/")
	if p == "" {
		p = "."
	}
	how := &unix.OpenHow{
		Flags:   flags | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(int(d.root.Fd()), p, how)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue // something on the way was renamed
		}
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: inMount(name), Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}

// Lstat implements treehash.FS. It does not tell extended attributes.
func (d *liveDir) Lstat(name string) (*fstypes.Stat, error) {
	f, err := d.open(name, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	st := info.Sys().(*syscall.Stat_t)
	out := &fstypes.Stat{
		Path: strings.Trim(name, "/"), Mode: uint32(info.Mode()), Uid: st.Uid, Gid: st.Gid, ModTime: info.ModTime().UnixNano(),
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(f.Fd()), "", buf)
		if err != nil {
			return nil, &fs.PathError{Op: "readlink", Path: inMount(name), Err: err}
		}
		out.Linkname, out.Size = string(buf[:n]), info.Size()
	case info.Mode()&fs.ModeDevice != 0:
		out.Devmajor, out.Devminor = int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev)))
	case !info.IsDir():
		out.Size = info.Size()
	}
	return out, nil
}

// ReadDir implements treehash.FS.
func (d *liveDir) ReadDir(name string) ([]string, error) {
	f, err := d.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// Open implements treehash.FS.
func (d *liveDir) Open(name string) (io.ReadCloser, error) {
	// Looked at before it is opened: to open a device can do something.
	st, err := d.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !fs.FileMode(st.Mode).IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: inMount(name), Err: errNotRegular}
	}
	f, err := d.open(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, &fs.PathError{Op: "open", Path: inMount(name), Err: errNotRegular}
	}
	return f, nil
}

var errNotRegular = errors.New("not a regular file")
