package snapshot

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// A copier writes trees in the overlay format.
type copier struct {
	ctx context.Context
	// link makes hard links of regular files: for sources that never change.
	link  bool
	links map[inode]string // copies of files that had several names
	times []dirTime        // directories get their times last
}

type inode struct{ dev, ino uint64 }

type dirTime struct {
	path string
	st   unix.Stat_t
}

// differ writes what upper adds to lower into dst. dst/dirs are made when needed.
type differ struct {
	copier
	lower, upper *View
	dst          string
	made         map[string]bool // directories that are in dst
}

// writeDiff writes into the empty directory dst what turns lower into upper, in the
// overlay format.
func writeDiff(ctx context.Context, lower, upper *View, dst string) error {
	d := &differ{
		copier: copier{ctx: ctx, link: true, links: map[inode]string{}},
		lower:  lower, upper: upper, dst: dst,
		made: map[string]bool{"": true},
	}
	if err := d.walk(""); err != nil {
		return err
	}
	if host, st, err := upper.find("lstat", ""); err == nil {
		if err := setAttributes(host, dst, st); err != nil {
			return err
		}
		d.times = append(d.times, dirTime{dst, *st})
	}
	return d.finish()
}

func (d *differ) walk(rel string) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	upper, err := listOrNone(d.upper, rel)
	if err != nil {
		return err
	}
	lower, err := listOrNone(d.lower, rel)
	if err != nil {
		return err
	}
	for _, name := range upper {
		if err := d.entry(join(rel, name)); err != nil {
			return err
		}
	}
	for _, name := range lower {
		if _, ok := slices.BinarySearch(upper, name); ok {
			continue
		}
		if err := d.mkdirs(rel); err != nil {
			return err
		}
		path := filepath.Join(d.dst, rel, name)
		if err := unix.Mknod(path, unix.S_IFCHR, 0); err != nil {
			return &os.PathError{Op: "whiteout", Path: path, Err: err}
		}
	}
	return nil
}

func (d *differ) entry(rel string) error {
	host, st, err := d.upper.find("lstat", rel)
	if err != nil {
		return err
	}
	lhost, lst, err := d.lower.find("lstat", rel)
	if errors.Is(err, fs.ErrNotExist) {
		return d.all(rel, host, st)
	}
	if err != nil {
		return err
	}
	dir, ldir := isDirMode(st.Mode), isDirMode(lst.Mode)
	if !dir || !ldir {
		same := false
		if !dir && !ldir {
			if same, err = sameFile(host, lhost, st, lst); err != nil {
				return err
			}
		}
		if same {
			return nil
		}
		return d.all(rel, host, st)
	}
	same, err := sameAttributes(host, lhost, st, lst)
	if err != nil {
		return err
	}
	if !same {
		if err := d.mkdirs(rel); err != nil {
			return err
		}
	}
	return d.walk(rel)
}

// all copies rel with everything in it.
func (d *differ) all(rel, host string, st *unix.Stat_t) error {
	if !isDirMode(st.Mode) {
		parent, _ := split(rel)
		if err := d.mkdirs(parent); err != nil {
			return err
		}
		return d.copy(host, filepath.Join(d.dst, rel), st)
	}
	if err := d.mkdirs(rel); err != nil {
		return err
	}
	names, err := d.upper.ReadDir(rel)
	if err != nil {
		return err
	}
	for _, name := range names {
		sub := join(rel, name)
		host, st, err := d.upper.find("lstat", sub)
		if err != nil {
			return err
		}
		if err := d.all(sub, host, st); err != nil {
			return err
		}
	}
	return d.ctx.Err()
}

// mkdirs makes rel and its parents in dst, with the attributes they have in upper.
func (d *differ) mkdirs(rel string) error {
	if d.made[rel] {
		return nil
	}
	parent, _ := split(rel)
	if err := d.mkdirs(parent); err != nil {
		return err
	}
	host, st, err := d.upper.find("lstat", rel)
	if err != nil {
		return err
	}
	d.made[rel] = true
	return d.copy(host, filepath.Join(d.dst, rel), st)
}

// copyView copies a whole tree to dst, which exists and is empty.
func copyView(ctx context.Context, v *View, dst string) error {
	c := &copier{ctx: ctx, links: map[inode]string{}}
	var walk func(rel string) error
	walk = func(rel string) error {
		names, err := listOrNone(v, rel)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := ctx.Err(); err != nil {
				return err
			}
			sub := join(rel, name)
			host, st, err := v.find("lstat", sub)
			if err != nil {
				return err
			}
			if err := c.copy(host, filepath.Join(dst, sub), st); err != nil {
				return err
			}
			if isDirMode(st.Mode) {
				if err := walk(sub); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if err := walk(""); err != nil {
		return err
	}
	if host, st, err := v.find("lstat", ""); err == nil {
		if err := setAttributes(host, dst, st); err != nil {
			return err
		}
		c.times = append(c.times, dirTime{dst, *st})
	}
	return c.finish()
}

// copy makes dst like the file at host; of a directory, only itself.
func (c *copier) copy(host, dst string, st *unix.Stat_t) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := os.Mkdir(dst, 0o700); err != nil {
			return err
		}
		c.times = append(c.times, dirTime{dst, *st})
		return setAttributes(host, dst, st)
	case unix.S_IFREG:
		if c.link {
			err := os.Link(host, dst)
			if err == nil {
				return nil
			}
			if !errors.Is(err, unix.EMLINK) && !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EPERM) {
				return err
			}
		}
		key := inode{uint64(st.Dev), st.Ino}
		if first, ok := c.links[key]; ok {
			return os.Link(first, dst)
		}
		if err := copyData(host, dst); err != nil {
			return err
		}
		if st.Nlink > 1 {
			c.links[key] = dst
		}
	case unix.S_IFLNK:
		target, err := os.Readlink(host)
		if err != nil {
			return err
		}
		if err := os.Symlink(target, dst); err != nil {
			return err
		}
	default:
		if err := unix.Mknod(dst, st.Mode, int(st.Rdev)); err != nil {
			return &os.PathError{Op: "mknod", Path: dst, Err: err}
		}
	}
	if err := setAttributes(host, dst, st); err != nil {
		return err
	}
	return setTimes(dst, st)
}

func (c *copier) finish() error {
	for _, d := range slices.Backward(c.times) {
		if err := setTimes(d.path, &d.st); err != nil {
			return err
		}
	}
	return nil
}

func copyData(from, to string) error {
	src, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

func setAttributes(host, dst string, st *unix.Stat_t) error {
	if err := os.Lchown(dst, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	attrs, err := xattrs(host)
	if err != nil {
		return &os.PathError{Op: "listxattr", Path: host, Err: err}
	}
	for k, v := range attrs {
		if err := unix.Lsetxattr(dst, k, v, 0); err != nil && err != unix.ENOTSUP {
			return &os.PathError{Op: "setxattr", Path: dst, Err: err}
		}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil
	}
	// After chown, which clears setuid bits.
	if err := unix.Fchmodat(unix.AT_FDCWD, dst, st.Mode&0o7777, 0); err != nil {
		return &os.PathError{Op: "chmod", Path: dst, Err: err}
	}
	return nil
}

func setTimes(path string, st *unix.Stat_t) error {
	ts := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: path, Err: err}
	}
	return nil
}

func sameAttributes(a, b string, ast, bst *unix.Stat_t) (bool, error) {
	if ast.Dev == bst.Dev && ast.Ino == bst.Ino {
		return true, nil
	}
	if ast.Mode != bst.Mode || ast.Uid != bst.Uid || ast.Gid != bst.Gid || ast.Rdev != bst.Rdev || ast.Mtim != bst.Mtim {
		return false, nil
	}
	ax, err := xattrs(a)
	if err != nil {
		return false, err
	}
	bx, err := xattrs(b)
	if err != nil {
		return false, err
	}
	return maps.EqualFunc(ax, bx, bytes.Equal), nil
}

// sameFile compares two files that are not directories, by content at last: times lie.
func sameFile(a, b string, ast, bst *unix.Stat_t) (bool, error) {
	if ast.Dev == bst.Dev && ast.Ino == bst.Ino {
		return true, nil
	}
	if ast.Size != bst.Size {
		return false, nil
	}
	if same, err := sameAttributes(a, b, ast, bst); !same || err != nil {
		return false, err
	}
	switch ast.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		at, err := os.Readlink(a)
		if err != nil {
			return false, err
		}
		bt, err := os.Readlink(b)
		return at == bt, err
	case unix.S_IFREG:
		return sameContent(a, b)
	}
	return true, nil
}

func sameContent(a, b string) (bool, error) {
	af, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer af.Close()
	bf, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer bf.Close()
	abuf, bbuf := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		an, aerr := io.ReadFull(af, abuf)
		bn, berr := io.ReadFull(bf, bbuf)
		if !bytes.Equal(abuf[:an], bbuf[:bn]) {
			return false, nil
		}
		aend := aerr == io.EOF || aerr == io.ErrUnexpectedEOF
		bend := berr == io.EOF || berr == io.ErrUnexpectedEOF
		switch {
		case aend && bend:
			return true, nil
		case aerr != nil && !aend:
			return false, aerr
		case berr != nil && !bend:
			return false, berr
		}
	}
}

func listOrNone(v *View, rel string) ([]string, error) {
	names, err := v.ReadDir(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, err
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}
