package contextfs

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// A Version is what the kernel says about a regular file.
type Version struct {
	Dev, Ino uint64
	Size     int64 // bytes
	Changed  int64 // when content or attributes were changed last: nanoseconds since 1970
	Seen     int64 // a time before the file was looked at, in the same unit
}

// An item is one entry of a directory.
type item struct {
	name       string
	link       string // target of a symlink
	mode       fs.FileMode
	rdev       uint64
	mtime      int64
	shared     bool // other names may belong to the inode
	v          Version
	xattrs     map[string][]byte
	keep       bool // the patterns admit it
	dir        *dir // to be entered; nil if it is none or the patterns admit nothing in it
	hasVersion bool
}

type inode struct{ dev, ino uint64 }

// look fills in an item, but for its attributes: the file name in the directory dirfd,
// whose path is dir. st is for its own use.
func (it *item) look(st *unix.Stat_t, dirfd int, dir, name string, seen int64) error {
	if err := unix.Fstatat(dirfd, name, st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "lstat", Path: filepath.Join(dir, name), Err: err}
	}
	it.mode = fileMode(st.Mode)
	it.rdev = uint64(st.Rdev)
	it.mtime = unix.TimespecToNsec(st.Mtim)
	it.v = Version{Dev: uint64(st.Dev), Ino: st.Ino, Size: st.Size, Changed: unix.TimespecToNsec(st.Ctim), Seen: seen}
	kind := st.Mode & unix.S_IFMT
	it.hasVersion = kind == unix.S_IFREG
	it.shared = st.Nlink > 1 && kind != unix.S_IFDIR && kind != unix.S_IFLNK
	if kind == unix.S_IFLNK {
		var err error
		if it.link, err = readlink(dirfd, name, st.Size); err != nil {
			return &fs.PathError{Op: "readlink", Path: filepath.Join(dir, name), Err: err}
		}
	}
	return nil
}

func readlink(dirfd int, name string, size int64) (string, error) {
	for b := make([]byte, max(size, 63)+1); ; b = make([]byte, 2*len(b)) {
		n, err := unix.Readlinkat(dirfd, name, b)
		if err != nil {
			return "", err
		}
		if n < len(b) {
			return string(b[:n]), nil
		}
	}
}

// An attributed is a file of which extended attributes can be read.
type attributed struct {
	path string // for errors
	list func([]byte) (int, error)
	get  func(string, []byte) (int, error)
}

func byPath(path string) attributed {
	return attributed{
		path: path,
		list: func(b []byte) (int, error) { return unix.Llistxattr(path, b) },
		get:  func(key string, b []byte) (int, error) { return unix.Lgetxattr(path, key, b) },
	}
}

func byFD(fd int, path string) attributed {
	return attributed{
		path: path,
		list: func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		get:  func(key string, b []byte) (int, error) { return unix.Fgetxattr(fd, key, b) },
	}
}

// xattrs returns the extended attributes, nil if there are none.
func (a attributed) xattrs() (map[string][]byte, error) {
	n, err := a.list(nil)
	if n == 0 || errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	buf := make([]byte, max(n, 0))
	if err == nil {
		n, err = a.list(buf)
	}
	for errors.Is(err, unix.ERANGE) { // there are more now
		buf = make([]byte, 2*len(buf)+256)
		n, err = a.list(buf)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: a.path, Err: err}
	}
	var out map[string][]byte
	for key := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		v, ok := a.value(key)
		if !ok {
			continue // not for us to read, or gone
		}
		if out == nil {
			out = map[string][]byte{}
		}
		out[key] = v
	}
	return out, nil
}

func (a attributed) value(key string) ([]byte, bool) {
	for b := make([]byte, 128); ; {
		n, err := a.get(key, b)
		switch {
		case err == nil:
			return b[:n], true
		case !errors.Is(err, unix.ERANGE):
			return nil, false
		}
		if n, err = a.get(key, nil); err != nil {
			return nil, false
		}
		b = make([]byte, n+64)
	}
}

// fill makes st say what it says, of the given path. Names of one inode that come after
// the first are said to be links to it. Whoever owns the file here, in the build it is root's.
// The attributes are shared with the item.
func (it *item) fill(st *types.Stat, path string, links map[inode]string) {
	st.Path, st.Mode, st.Uid, st.Gid, st.ModTime = path, uint32(it.mode), 0, 0, it.mtime
	st.Size, st.Linkname, st.Devmajor, st.Devminor, st.Xattrs = 0, it.link, 0, 0, it.xattrs
	if it.mode.IsDir() {
		return
	}
	st.Size = it.v.Size
	if it.mode&fs.ModeDevice != 0 {
		st.Devmajor, st.Devminor = int64(unix.Major(it.rdev)), int64(unix.Minor(it.rdev))
	}
	if it.shared {
		id := inode{it.v.Dev, it.v.Ino}
		if first, ok := links[id]; ok {
			st.Linkname = first
		} else {
			links[id] = path
		}
	}
}

// fileMode converts a mode of stat(2). A socket has no type: archives have none for it.
func fileMode(m uint32) fs.FileMode {
	out := fs.FileMode(m & 0o777)
	switch m & unix.S_IFMT {
	case unix.S_IFDIR:
		out |= fs.ModeDir
	case unix.S_IFLNK:
		out |= fs.ModeSymlink
	case unix.S_IFIFO:
		out |= fs.ModeNamedPipe
	case unix.S_IFBLK:
		out |= fs.ModeDevice
	case unix.S_IFCHR:
		out |= fs.ModeDevice | fs.ModeCharDevice
	}
	for _, b := range [...]struct {
		bit  uint32
		mode fs.FileMode
	}{{unix.S_ISUID, fs.ModeSetuid}, {unix.S_ISGID, fs.ModeSetgid}, {unix.S_ISVTX, fs.ModeSticky}} {
		if m&b.bit != 0 {
			out |= b.mode
		}
	}
	return out
}
