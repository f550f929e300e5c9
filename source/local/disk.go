package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A disk changes a tree. It resolves paths in the kernel, beneath the tree and without
// following links, so that no list of files can reach out of it. It keeps the directory
// used last open. It is not safe for concurrent use; several may work on one tree as long
// as directories are replaced before their content is written.
type disk struct {
	root, tmp int // descriptors of tree/ and tmp/
	tree      string

	dir   string // path of dirfd
	dirfd int    // -1: none
}

// openDisk opens the tree in a directory, making what is missing.
func openDisk(dir string) (*disk, error) {
	tree, tmp := filepath.Join(dir, "tree"), filepath.Join(dir, "tmp")
	for _, p := range []string{tree, tmp} {
		if err := os.Mkdir(p, 0o700); err == nil {
			if err := os.Chmod(p, 0o755); err != nil {
				return nil, err
			}
		} else if !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
	}
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	root, err := unix.Open(tree, flags, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: tree, Err: err}
	}
	t, err := unix.Open(tmp, flags, 0)
	if err != nil {
		unix.Close(root)
		return nil, &fs.PathError{Op: "open", Path: tmp, Err: err}
	}
	return &disk{root: root, tmp: t, tree: tree, dirfd: -1}, nil
}

// clone returns a disk for another goroutine. It must be closed before d.
func (d *disk) clone() *disk { return &disk{root: d.root, tmp: d.tmp, tree: d.tree, dirfd: -1} }

// forget closes the directory that is kept open.
func (d *disk) forget() {
	if d.dirfd >= 0 {
		unix.Close(d.dirfd)
	}
	d.dir, d.dirfd = "", -1
}

func (d *disk) close() {
	d.forget()
	unix.Close(d.root)
	unix.Close(d.tmp)
}

func (d *disk) fail(op, path string, err error) error {
	return &fs.PathError{Op: op, Path: filepath.Join(d.tree, path), Err: err}
}

// parent returns a descriptor of the directory of path, good until the next call, and the
// name of path in it.
func (d *disk) parent(path string) (int, string, error) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return d.root, path, nil
	}
	dir := path[:i]
	if d.dirfd >= 0 && d.dir == dir {
		return d.dirfd, path[i+1:], nil
	}
	fd, err := d.open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, "", err
	}
	d.forget()
	d.dir, d.dirfd = dir, fd
	return fd, path[i+1:], nil
}

// open opens a path of the tree; no part of it may be a link.
func (d *disk) open(path string, flags int, mode fs.FileMode) (int, error) {
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Mode:    uint64(mode.Perm()),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(d.root, path, &how)
		if err == unix.EINTR || err == unix.EAGAIN {
			continue
		}
		if err != nil {
			return -1, d.fail("open", path, err)
		}
		return fd, nil
	}
}

// remove removes what is at path, if anything, with all below it.
func (d *disk) remove(path string) error {
	fd, name, err := d.parent(path)
	if err != nil {
		return err
	}
	switch err := unix.Unlinkat(fd, name, 0); err {
	case nil, unix.ENOENT:
		return nil
	case unix.EISDIR, unix.EPERM:
	default:
		return d.fail("remove", path, err)
	}
	dir := dirname(path)
	if dir == "" {
		dir = "."
	}
	root, err := os.OpenRoot(d.tree)
	if err != nil {
		return err
	}
	defer root.Close()
	sub, err := root.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := sub.RemoveAll(name); err != nil {
		return fmt.Errorf("remove %s: %w", filepath.Join(d.tree, path), err)
	}
	return nil
}

// mkdir makes a directory, or keeps one that exists. It can be entered only by us until
// setDir is called.
func (d *disk) mkdir(path string) error {
	for try := 0; ; try++ {
		fd, name, err := d.parent(path)
		if err != nil {
			return err
		}
		err = unix.Mkdirat(fd, name, 0o700)
		if err == unix.EEXIST && try == 0 {
			var st unix.Stat_t
			if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
				return nil
			}
			if err := d.remove(path); err != nil {
				return err
			}
			continue
		}
		if err != nil {
			return d.fail("mkdir", path, err)
		}
		return nil
	}
}

// symlink makes a link, replacing what is there.
func (d *disk) symlink(e *entry) error {
	if err := d.remove(e.path); err != nil {
		return err
	}
	fd, name, err := d.parent(e.path)
	if err != nil {
		return err
	}
	if err := unix.Symlinkat(e.link, fd, name); err != nil {
		return d.fail("symlink", e.path, err)
	}
	if e.uid != 0 || e.gid != 0 || os.Geteuid() != 0 {
		if err := unix.Fchownat(fd, name, int(e.uid), int(e.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return d.fail("chown", e.path, err)
		}
	}
	ts := times(e.mtime)
	if err := unix.UtimesNanoAt(fd, name, ts[:], unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return d.fail("utimes", e.path, err)
	}
	return nil
}

// link makes path another name of the file at target, replacing what is there.
func (d *disk) link(target, path string) error {
	if err := d.remove(path); err != nil {
		return err
	}
	src, err := d.open(target, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	fd, name, err := d.parent(path)
	if err != nil {
		return err
	}
	if err := linkFD(src, fd, name); err != nil {
		return d.fail("link", path, err)
	}
	return nil
}

// linkFrom makes path another name of a file outside of the tree.
func (d *disk) linkFrom(file, path string) error {
	src, err := unix.Open(file, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return d.fail("link", path, err)
	}
	defer unix.Close(src)
	fd, name, err := d.parent(path)
	if err != nil {
		return err
	}
	if err := linkFD(src, fd, name); err != nil {
		return d.fail("link", path, err)
	}
	return nil
}

// linkFD gives the open file src another name.
func linkFD(src, dirfd int, name string) error {
	err := unix.Linkat(src, "", dirfd, name, unix.AT_EMPTY_PATH)
	if err == unix.ENOENT || err == unix.EPERM { // AT_EMPTY_PATH needs a capability
		err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", src), dirfd, name, unix.AT_SYMLINK_FOLLOW)
	}
	return err
}

// setDir gives a directory its owner, mode, attributes and times.
func (d *disk) setDir(e *entry) error {
	fd, err := d.open(e.path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := clearXattrs(fd); err != nil {
		return d.fail("setxattr", e.path, err)
	}
	return d.setMeta(fd, e, true)
}

// clearXattrs removes the attributes a directory had before.
func clearXattrs(fd int) error {
	n, err := unix.Flistxattr(fd, nil)
	if err != nil || n == 0 {
		return nil // none, or not supported here
	}
	buf := make([]byte, n)
	if n, err = unix.Flistxattr(fd, buf); err != nil {
		return err
	}
	for _, name := range strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if keepXattr(name) {
			if err := unix.Fremovexattr(fd, name); err != nil {
				return err
			}
		}
	}
	return nil
}

// setMeta gives an open file its owner, mode, attributes and times. chown says that the
// owner may be other than ours.
func (d *disk) setMeta(fd int, e *entry, chown bool) error {
	if chown || e.uid != 0 || e.gid != 0 || os.Geteuid() != 0 {
		if err := unix.Fchown(fd, int(e.uid), int(e.gid)); err != nil {
			return d.fail("chown", e.path, err)
		}
	}
	if err := unix.Fchmod(fd, unixMode(e.mode)); err != nil {
		return d.fail("chmod", e.path, err)
	}
	if e.xattrs != "" {
		err := unpackXattrs(e.xattrs, func(name string, value []byte) error {
			err := unix.Fsetxattr(fd, name, value, 0)
			if err == unix.ENOTSUP {
				return nil // the state directory's file system has none
			}
			return err
		})
		if err != nil {
			return d.fail("setxattr", e.path, err)
		}
	}
	if err := futimens(fd, e.mtime); err != nil {
		return d.fail("utimes", e.path, err)
	}
	return nil
}

func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		u |= unix.S_ISUID
	}
	if m&fs.ModeSetgid != 0 {
		u |= unix.S_ISGID
	}
	if m&fs.ModeSticky != 0 {
		u |= unix.S_ISVTX
	}
	return u
}

// times returns access and modification time for a modification time in nanoseconds.
func times(mtime int64) [2]unix.Timespec {
	sec, nsec := mtime/1e9, mtime%1e9
	if nsec < 0 {
		sec, nsec = sec-1, nsec+1e9
	}
	ts := unix.Timespec{Sec: sec, Nsec: nsec}
	return [2]unix.Timespec{ts, ts}
}
