package snapshot

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/dbuild/dbuild/internal/treehash"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// A View reads a Ref by looking into its layers, without mounting. It is a treehash.FS.
// It is safe for concurrent use.
//
// No symlink is ever followed: a path is looked up element by element, and every element
// but the last must be a directory in the merged tree. Since layers do not change, a
// directory once found to be one stays one, and plain path names are safe beneath it.
type View struct {
	roots  []string // layer directories, highest first
	prefix string   // of overlay's xattrs
	opaque string

	mu   sync.Mutex
	dirs map[string]*viewDir // by path; bounded by viewDirs
}

// A viewDir is a merged directory: the directories it consists of, highest first.
type viewDir struct {
	parts []string
	from  map[string]int32 // name → index into parts; nil until it was listed
	// missing are names that were looked for in every part. COPY asks several times for
	// the one that it is about to make.
	missing map[string]struct{}
}

// maxMissing bounds how many names a directory remembers that it does not have.
const maxMissing = 64

// viewDirs bounds how many directories a View remembers.
const viewDirs = 1 << 15

var _ treehash.FS = (*View)(nil)

func newView(prefix string, roots ...string) *View {
	return &View{roots: roots, prefix: prefix, opaque: prefix + "opaque", dirs: map[string]*viewDir{}}
}

// HostPath returns the file in the layer directory that path comes from, for linking or
// reading it in place. It must not be written. It is an error for a directory.
func (v *View) HostPath(path string) (string, error) {
	host, st, err := v.find("open", path)
	if err != nil {
		return "", err
	}
	if isDirMode(st.Mode) {
		return "", &fs.PathError{Op: "open", Path: path, Err: unix.EISDIR}
	}
	return host, nil
}

// Depth returns how many layers lie above the one that path comes from. It is an error
// for a directory.
func (v *View) Depth(path string) (int, error) {
	host, err := v.HostPath(path)
	if err != nil {
		return 0, err
	}
	for i, root := range v.roots {
		if strings.HasPrefix(host, root+"/") {
			return i, nil
		}
	}
	return 0, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
}

// Lstat returns what is known about path; Path is path, Size is that of files and links.
func (v *View) Lstat(path string) (*fstypes.Stat, error) {
	path = strings.Trim(path, "/")
	host, st, err := v.find("lstat", path)
	if err != nil {
		return nil, err
	}
	out := &fstypes.Stat{
		Path:    path,
		Mode:    uint32(goMode(st.Mode)),
		Uid:     st.Uid,
		Gid:     st.Gid,
		ModTime: st.Mtim.Nano(),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
	case unix.S_IFLNK:
		out.Size = st.Size
		if out.Linkname, err = os.Readlink(host); err != nil {
			return nil, err
		}
	case unix.S_IFBLK, unix.S_IFCHR:
		out.Devmajor = int64(unix.Major(uint64(st.Rdev)))
		out.Devminor = int64(unix.Minor(uint64(st.Rdev)))
	default:
		out.Size = st.Size
	}
	if out.Xattrs, err = xattrs(host); err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: path, Err: err}
	}
	return out, nil
}

// ReadDir returns the sorted names in a directory.
func (v *View) ReadDir(path string) ([]string, error) {
	path = strings.Trim(path, "/")
	d, err := v.dir("readdir", path)
	if err != nil {
		return nil, err
	}
	names, from, err := v.list(d.parts)
	if err != nil {
		return nil, err
	}
	v.mu.Lock()
	d.from = from
	v.mu.Unlock()
	return names, nil
}

func (v *View) list(parts []string) ([]string, map[string]int32, error) {
	from := map[string]int32{}
	var names []string
	for i, part := range parts {
		f, err := os.Open(part)
		if err != nil {
			return nil, nil, err
		}
		entries, err := f.ReadDir(-1)
		f.Close()
		if err != nil {
			return nil, nil, err
		}
		for _, e := range entries {
			name := e.Name()
			if _, hidden := from[name]; hidden {
				continue
			}
			if e.Type()&fs.ModeCharDevice != 0 {
				var st unix.Stat_t
				if err := unix.Lstat(part+"/"+name, &st); err != nil {
					return nil, nil, &fs.PathError{Op: "lstat", Path: part + "/" + name, Err: err}
				}
				if isWhiteout(&st) {
					from[name] = -1
					continue
				}
			}
			from[name] = int32(i)
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, from, nil
}

// Open opens a regular file.
func (v *View) Open(path string) (io.ReadCloser, error) {
	host, st, err := v.find("open", path)
	if err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("not a regular file: %w", unix.EINVAL)}
	}
	return os.OpenFile(host, os.O_RDONLY|unix.O_NOFOLLOW, 0)
}

// find returns where path is on the host.
func (v *View) find(op, path string) (string, *unix.Stat_t, error) {
	path = strings.Trim(path, "/")
	st := new(unix.Stat_t)
	if path == "" {
		d, err := v.dir(op, "")
		if err != nil {
			return "", nil, err
		}
		if err := unix.Lstat(d.parts[0], st); err != nil {
			return "", nil, &fs.PathError{Op: op, Path: "/", Err: err}
		}
		return d.parts[0], st, nil
	}
	parent, name := split(path)
	if name == "." || name == ".." {
		return "", nil, &fs.PathError{Op: op, Path: path, Err: fs.ErrInvalid}
	}
	d, err := v.dir(op, parent)
	if err != nil {
		return "", nil, err
	}
	parts := d.parts
	v.mu.Lock()
	from := d.from
	_, missing := d.missing[name]
	v.mu.Unlock()
	switch {
	case missing:
		return "", nil, &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
	case from != nil:
		i, ok := from[name]
		if !ok || i < 0 {
			return "", nil, &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
		}
		parts = parts[i : i+1]
	}
	for _, part := range parts {
		host := part + "/" + name
		switch err := unix.Lstat(host, st); {
		case err == unix.ENOENT:
			continue
		case err != nil:
			return "", nil, &fs.PathError{Op: op, Path: path, Err: err}
		case isWhiteout(st):
			return "", nil, &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
		}
		return host, st, nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(d.missing) >= maxMissing {
		clear(d.missing)
	}
	if d.missing == nil {
		d.missing = map[string]struct{}{}
	}
	d.missing[name] = struct{}{}
	return "", nil, &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
}

// dir returns the merged directory at path.
func (v *View) dir(op, path string) (*viewDir, error) {
	v.mu.Lock()
	d := v.dirs[path]
	v.mu.Unlock()
	if d != nil {
		return d, nil
	}
	d = &viewDir{}
	if path == "" {
		d.parts = v.roots
		if len(d.parts) == 0 {
			return nil, &fs.PathError{Op: op, Path: "/", Err: fs.ErrNotExist} // an empty stack has no root
		}
	} else {
		parent, name := split(path)
		if name == "." || name == ".." || name == "" {
			return nil, &fs.PathError{Op: op, Path: path, Err: fs.ErrInvalid}
		}
		p, err := v.dir(op, parent)
		if err != nil {
			return nil, err
		}
		if d.parts, err = v.merge(op, path, p.parts, name); err != nil {
			return nil, err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.dirs) >= viewDirs {
		clear(v.dirs)
	}
	v.dirs[path] = d
	return d, nil
}

// merge finds the directories called name in parts that make up one merged directory.
func (v *View) merge(op, path string, parts []string, name string) ([]string, error) {
	var found []string
	for i, part := range parts {
		host := part + "/" + name
		var st unix.Stat_t
		err := unix.Lstat(host, &st)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: op, Path: path, Err: err}
		}
		if isWhiteout(&st) {
			break
		}
		if !isDirMode(st.Mode) {
			if len(found) == 0 {
				return nil, &fs.PathError{Op: op, Path: path, Err: notDir{}}
			}
			break
		}
		found = append(found, host)
		if i < len(parts)-1 && isOpaque(host, v.opaque) {
			break
		}
	}
	if len(found) == 0 {
		return nil, &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
	}
	return found, nil
}

// notDir is ENOTDIR that also counts as "does not exist", as it does for a path lookup.
type notDir struct{}

func (notDir) Error() string        { return unix.ENOTDIR.Error() }
func (notDir) Is(target error) bool { return target == fs.ErrNotExist || target == unix.ENOTDIR }

func split(path string) (dir, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

func isDirMode(mode uint32) bool { return mode&unix.S_IFMT == unix.S_IFDIR }

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

func isOpaque(path, name string) bool {
	var buf [4]byte
	n, err := unix.Lgetxattr(path, name, buf[:])
	return err == nil && n == 1 && buf[0] == 'y'
}

// goMode turns st_mode into Go's bits. Sockets become regular files, as in fsutil.
func goMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & unix.S_IFMT {
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	}
	if mode&unix.S_ISGID != 0 {
		m |= fs.ModeSetgid
	}
	if mode&unix.S_ISUID != 0 {
		m |= fs.ModeSetuid
	}
	if mode&unix.S_ISVTX != 0 {
		m |= fs.ModeSticky
	}
	return m
}

// xattrs returns the extended attributes of a file that are part of its content: not
// overlay's own, and not SELinux labels, which the host gives.
func xattrs(path string) (map[string][]byte, error) {
	var stack [512]byte
	buf := stack[:]
	n, err := unix.Llistxattr(path, buf)
	for err == unix.ERANGE {
		if n, err = unix.Llistxattr(path, nil); err != nil {
			break
		}
		buf = make([]byte, n+64)
		n, err = unix.Llistxattr(path, buf)
	}
	if err == unix.ENOTSUP || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out map[string][]byte
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" || hiddenXattr(name) {
			continue
		}
		val, err := getXattr(path, name)
		if err == unix.ENODATA {
			continue
		}
		if err != nil {
			return nil, err
		}
		if out == nil {
			out = map[string][]byte{}
		}
		out[name] = val
	}
	return out, nil
}

func hiddenXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") || name == "security.selinux"
}

func getXattr(path, name string) ([]byte, error) {
	buf := make([]byte, 128)
	for {
		n, err := unix.Lgetxattr(path, name, buf)
		if err == nil {
			return buf[:n], nil
		}
		if err != unix.ERANGE {
			return nil, err
		}
		if n, err = unix.Lgetxattr(path, name, nil); err != nil {
			return nil, err
		}
		buf = make([]byte, n+64)
	}
}

func readDir(dir string) ([]os.DirEntry, error) { return os.ReadDir(dir) }
