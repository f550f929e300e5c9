package fileop

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/continuity/sysx"
	"github.com/dbuild/dbuild/internal/treehash"
	fstypes "github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

const opaqueXattr = "trusted.overlay.opaque"

// A Dest is where actions write: an upper directory that nobody else touches meanwhile,
// over a lower tree (nil for none). It is not safe for concurrent use.
type Dest struct {
	upper string
	lower treehash.FS
	// under remembers, for directories that were looked at, whether the lower tree shows
	// through.
	under map[string]bool
}

// NewDest returns the tree of lower beneath the directory upper, which may have content
// of earlier actions.
func NewDest(upper string, lower treehash.FS) *Dest {
	if lower == nil {
		lower = treehash.Empty
	}
	return &Dest{upper: upper, lower: lower, under: map[string]bool{}}
}

func (d *Dest) host(p string) string { return filepath.Join(d.upper, p) }

// shows reports whether the lower tree shows through in the directory p.
func (d *Dest) shows(p string) (bool, error) {
	if s, ok := d.under[p]; ok {
		return s, nil
	}
	s := true
	if p != "" {
		var err error
		if s, err = d.shows(parent(p)); err != nil {
			return false, err
		}
	}
	if s {
		st, err := os.Lstat(d.host(p))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return false, err
		case !st.IsDir():
			s = false
		default:
			s = !isOpaque(d.host(p))
		}
	}
	d.under[p] = s
	return s, nil
}

func isOpaque(dir string) bool {
	v, err := sysx.LGetxattr(dir, opaqueXattr)
	return err == nil && string(v) == "y"
}

func isWhiteout(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && fi.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0
}

// Lstat implements treehash.FS on the combined tree.
func (d *Dest) Lstat(p string) (*fstypes.Stat, error) {
	fi, err := os.Lstat(d.host(p))
	if err == nil {
		if isWhiteout(fi) {
			return nil, notExist("lstat", p)
		}
		return d.stat(p, fi)
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return nil, err
	}
	s, err := d.shows(parent(p))
	if err != nil {
		return nil, err
	}
	if !s {
		return nil, notExist("lstat", p)
	}
	return d.lower.Lstat(p)
}

// stat describes what is in upper.
func (d *Dest) stat(p string, fi fs.FileInfo) (*fstypes.Stat, error) {
	sys := fi.Sys().(*syscall.Stat_t)
	st := &fstypes.Stat{
		Path: p, Mode: uint32(fi.Mode()), Uid: sys.Uid, Gid: sys.Gid, Size: fi.Size(), ModTime: fi.ModTime().UnixNano(),
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		link, err := os.Readlink(d.host(p))
		if err != nil {
			return nil, err
		}
		st.Linkname = link
	}
	return st, nil
}

// ReadDir implements treehash.FS on the combined tree.
func (d *Dest) ReadDir(p string) ([]string, error) {
	hidden := map[string]bool{}
	var names []string
	entries, err := os.ReadDir(d.host(p))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	inUpper := err == nil
	for _, e := range entries {
		hidden[e.Name()] = true
		if fi, err := e.Info(); err != nil {
			return nil, err
		} else if !isWhiteout(fi) {
			names = append(names, e.Name())
		}
	}
	s, err := d.shows(p)
	if err != nil {
		return nil, err
	}
	if !s {
		return names, nil
	}
	below, err := d.lower.ReadDir(p)
	if err != nil {
		if inUpper && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)) {
			return names, nil
		}
		return nil, err
	}
	for _, n := range below {
		if !hidden[n] {
			names = append(names, n)
		}
	}
	return names, nil
}

func parent(p string) string {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i]
	}
	return ""
}

func notExist(op, p string) error {
	return &fs.PathError{Op: op, Path: "/" + p, Err: fs.ErrNotExist}
}

// resolver is a Dest for treehash.Resolve, which opens no files.
type resolver struct{ *Dest }

func (resolver) Open(string) (io.ReadCloser, error) { return nil, errors.ErrUnsupported }

// resolve returns p without symlinks, the last element followed too.
func (d *Dest) resolve(p string) (string, error) {
	return treehash.Resolve(resolver{d}, p, true)
}

// copyUp makes sure that the directory p, which is resolved and exists in the combined
// tree, is in upper.
func (d *Dest) copyUp(p string) error {
	if p == "" {
		return nil
	}
	fi, err := os.Lstat(d.host(p))
	if err == nil {
		if !fi.IsDir() {
			return fmt.Errorf("/%s: not a directory", p)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	st, err := d.lower.Lstat(p)
	if err != nil {
		return err
	}
	if !fs.FileMode(st.Mode).IsDir() {
		return fmt.Errorf("/%s: not a directory", p)
	}
	if err := d.copyUp(parent(p)); err != nil {
		return err
	}
	return d.keepTime(parent(p), func() error {
		if err := os.Mkdir(d.host(p), 0o700); err != nil {
			return err
		}
		return setStat(d.host(p), st)
	})
}

// copyUpFile makes sure that p, resolved and a regular file of the combined tree, is in
// upper.
func (d *Dest) copyUpFile(p string) error {
	fi, err := os.Lstat(d.host(p))
	if err == nil && fi.Mode().IsRegular() {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	st, err := d.Lstat(p)
	if err != nil {
		return err
	}
	if !fs.FileMode(st.Mode).IsRegular() {
		return fmt.Errorf("/%s: not a regular file", p)
	}
	if err := d.copyUp(parent(p)); err != nil {
		return err
	}
	return d.keepTime(parent(p), func() error {
		in, err := d.lower.Open(p)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(d.host(p), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		defer out.Close()
		if _, err := io.Copy(out, in); err != nil {
			return fmt.Errorf("copy /%s: %w", p, err)
		}
		if err := out.Close(); err != nil {
			return err
		}
		return setStat(d.host(p), st)
	})
}

// keepTime runs fn, which changes what is in the directory p of upper, and restores its
// modification time.
func (d *Dest) keepTime(p string, fn func() error) error {
	fi, err := os.Lstat(d.host(p))
	if err != nil {
		return err
	}
	if err := fn(); err != nil {
		return err
	}
	return setTime(d.host(p), fi.ModTime())
}

// mkdirAll makes directories down to p as far as they are missing, each with perm and
// attr, and returns p resolved.
func (d *Dest) mkdirAll(p string, perm fs.FileMode, a attr) (string, error) {
	resolved, err := d.resolve(p)
	if err != nil {
		return "", err
	}
	return resolved, d.mkdirs(resolved, perm, a)
}

// exists reports whether there is something at p, links followed.
func (d *Dest) exists(p string) (bool, error) {
	resolved, err := d.resolve(p)
	if err != nil {
		return false, err
	}
	_, err = d.Lstat(resolved)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (d *Dest) mkdirs(p string, perm fs.FileMode, a attr) error {
	st, err := d.Lstat(p)
	if err == nil {
		if !fs.FileMode(st.Mode).IsDir() {
			return fmt.Errorf("/%s: not a directory", p)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if p == "" {
		return nil
	}
	if err := d.mkdirs(parent(p), perm, a); err != nil {
		return err
	}
	return d.mkdir(p, perm, a)
}

// mkdir makes the directory p, which does not exist in the combined tree; its parent does.
func (d *Dest) mkdir(p string, perm fs.FileMode, a attr) error {
	if err := d.copyUp(parent(p)); err != nil {
		return err
	}
	return d.keepTime(parent(p), func() error {
		hidesLower, err := d.clear(p)
		if err != nil {
			return err
		}
		host := d.host(p)
		if err := os.Mkdir(host, 0o700); err != nil {
			return err
		}
		if hidesLower {
			if err := sysx.LSetxattr(host, opaqueXattr, []byte("y"), 0); err != nil {
				return fmt.Errorf("/%s: mark as opaque: %w", p, err)
			}
		}
		d.under[p] = false
		return a.apply(host, perm)
	})
}

// clear removes what upper has at p and reports whether a directory made there must hide
// one of the lower tree.
func (d *Dest) clear(p string) (bool, error) {
	d.forget(p)
	fi, err := os.Lstat(d.host(p))
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, err
	case fi.IsDir():
		if err := os.RemoveAll(d.host(p)); err != nil {
			return false, err
		}
	default:
		if err := os.Remove(d.host(p)); err != nil {
			return false, err
		}
	}
	return d.lowerIsDir(p)
}

func (d *Dest) lowerIsDir(p string) (bool, error) {
	s, err := d.shows(parent(p))
	if err != nil || !s {
		return false, err
	}
	st, err := d.lower.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && fs.FileMode(st.Mode).IsDir(), err
}

// forget drops what is remembered of p and what is in it.
func (d *Dest) forget(p string) {
	for k := range d.under {
		if k == p || strings.HasPrefix(k, p+"/") {
			delete(d.under, k)
		}
	}
}

// place makes room for something at p that is no directory and calls create with its host
// path. The parent exists; a directory at p is an error unless replace is set.
func (d *Dest) place(p string, replace bool, create func(host string) error) error {
	if p == "" {
		return errors.New("the root directory cannot be replaced by a file")
	}
	st, err := d.Lstat(p)
	if err == nil && fs.FileMode(st.Mode).IsDir() && !replace {
		return fmt.Errorf("cannot overwrite the directory /%s with something else", p)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := d.copyUp(parent(p)); err != nil {
		return err
	}
	return d.keepTime(parent(p), func() error {
		if _, err := d.clear(p); err != nil {
			return err
		}
		return create(d.host(p))
	})
}

// vacant reports whether the directory p, which is in upper, is empty in every layer, so
// that nothing has to be looked for before something is put into it, and its time.
func (d *Dest) vacant(p string) (bool, time.Time, error) {
	entries, err := os.ReadDir(d.host(p))
	if err != nil || len(entries) > 0 {
		return false, time.Time{}, err
	}
	names, err := d.ReadDir(p)
	if err != nil || len(names) > 0 {
		return false, time.Time{}, err
	}
	fi, err := os.Lstat(d.host(p))
	if err != nil {
		return false, time.Time{}, err
	}
	return true, fi.ModTime(), nil
}

// remove makes p, resolved but for its last element, not exist.
func (d *Dest) remove(p string) error {
	if p == "" {
		return errors.New("the root directory cannot be removed")
	}
	s, err := d.shows(parent(p))
	if err != nil {
		return err
	}
	below := false
	if s {
		_, err := d.lower.Lstat(p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		below = err == nil
	}
	if err := d.copyUp(parent(p)); err != nil {
		return err
	}
	return d.keepTime(parent(p), func() error {
		d.forget(p)
		if err := os.RemoveAll(d.host(p)); err != nil {
			return err
		}
		if !below {
			return nil
		}
		return unix.Mknod(d.host(p), unix.S_IFCHR, 0)
	})
}

// attr is what an action gives to all it makes; nil fields mean 0:0 and now.
type attr struct {
	owner *Owner
	time  *time.Time
}

// apply gives host, just made, its owner, mode and time.
func (a attr) apply(host string, perm fs.FileMode) error {
	if a.owner != nil {
		if err := os.Lchown(host, a.owner.UID, a.owner.GID); err != nil {
			return err
		}
	}
	if err := chmod(host, perm); err != nil {
		return err
	}
	if a.time != nil {
		return setTime(host, *a.time)
	}
	return nil
}

// chmod sets permission, setuid, setgid and sticky bits.
func chmod(host string, m fs.FileMode) error { return os.Chmod(host, m) }

func setTime(host string, t time.Time) error {
	ts := unix.NsecToTimespec(t.UnixNano())
	err := unix.UtimesNanoAt(unix.AT_FDCWD, host, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return &fs.PathError{Op: "utimes", Path: host, Err: err}
	}
	return nil
}

// setStat gives host the owner, mode, xattrs and time of st.
func setStat(host string, st *fstypes.Stat) error {
	mode := fs.FileMode(st.Mode)
	// What was just made is root's already; a directory may be one that was there.
	if st.Uid != 0 || st.Gid != 0 || mode.IsDir() {
		if err := os.Lchown(host, int(st.Uid), int(st.Gid)); err != nil {
			return err
		}
	}
	if mode&fs.ModeSymlink == 0 {
		if err := chmod(host, mode&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
			return err
		}
	}
	if err := setXattrs(host, st.Xattrs); err != nil {
		return err
	}
	return setTime(host, time.Unix(0, st.ModTime))
}

// setXattrs copies extended attributes as far as the filesystem takes them.
func setXattrs(host string, xattrs map[string][]byte) error {
	for k, v := range xattrs {
		if strings.HasPrefix(k, "trusted.overlay.") {
			continue
		}
		if err := sysx.LSetxattr(host, k, v, 0); err != nil && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("%s: set %s: %w", path.Base(host), k, err)
		}
	}
	return nil
}
