// Package contextfs serves a directory to a build.
//
// It is an fsutil.FS that says the same about files as fsutil's own, and one thing more
// for a daemon that asks for it: which version of a regular file is there, so that a
// change shows even where size and modification time are as before.
package contextfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/continuity/sysx"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// An FS is a directory of this machine.
type FS struct {
	root    string
	version func(fs.FileInfo, time.Time) []byte
	xattr   string
}

// New returns the directory root, which must exist.
func New(root string) (*FS, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	resolved, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(resolved)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return nil, fmt.Errorf("%s is not a directory", root)
	}
	return &FS{root: resolved}, nil
}

// WithVersions makes f tell, in the extended attribute name, what version returns for a
// regular file as it is now. A nil value is not told.
func (f *FS) WithVersions(name string, version func(fi fs.FileInfo, now time.Time) []byte) *FS {
	return &FS{root: f.root, xattr: name, version: version}
}

// Walk calls fn for everything below target, parents first, in the order of names. What
// disappears meanwhile is left out.
func (f *FS) Walk(ctx context.Context, target string, fn fs.WalkDirFunc) error {
	links := map[inode]string{}
	return filepath.WalkDir(filepath.Join(f.root, target), func(path string, d fs.DirEntry, walkErr error) error {
		rel, ok := strings.CutPrefix(path, f.root)
		if !ok {
			return fmt.Errorf("%s is outside of %s", path, f.root)
		}
		rel = strings.TrimPrefix(rel, string(filepath.Separator))
		if rel == "" {
			return walkErr
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var e fs.DirEntry
		if d != nil {
			e = &entry{DirEntry: d, fs: f, path: path, rel: rel, links: links}
		}
		err := fn(rel, e, walkErr)
		if errors.Is(err, fs.ErrNotExist) {
			if d != nil && d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		return err
	})
}

// Open opens a file that Walk found.
func (f *FS) Open(path string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(f.root, path))
}

type inode struct{ dev, ino uint64 }

// entry looks at its file when it is asked to, once.
type entry struct {
	fs.DirEntry
	fs        *FS
	path, rel string
	links     map[inode]string
	stat      *types.Stat
}

// Info returns a new copy each time: callers change it.
func (e *entry) Info() (fs.FileInfo, error) {
	if e.stat == nil {
		st, err := e.fs.lookAt(e)
		if err != nil {
			return nil, err
		}
		e.stat = st
	}
	return &fsutil.StatInfo{Stat: e.stat.Clone()}, nil
}

func (f *FS) lookAt(e *entry) (*types.Stat, error) {
	fi, err := e.DirEntry.Info()
	if err != nil {
		return nil, err
	}
	st := &types.Stat{
		Path:    e.rel,
		Mode:    uint32(fi.Mode() &^ fs.ModeSocket),
		ModTime: fi.ModTime().UnixNano(),
	}
	sys, ok := fi.Sys().(*syscall.Stat_t)
	if ok {
		st.Uid, st.Gid = sys.Uid, sys.Gid
	}
	if !fi.IsDir() {
		st.Size = fi.Size()
		if fi.Mode()&fs.ModeSymlink != 0 {
			if st.Linkname, err = os.Readlink(e.path); err != nil {
				return nil, err
			}
		}
		if ok {
			if fi.Mode()&fs.ModeDevice != 0 {
				st.Devmajor, st.Devminor = int64(unix.Major(uint64(sys.Rdev))), int64(unix.Minor(uint64(sys.Rdev)))
			}
			if sys.Nlink > 1 && fi.Mode()&fs.ModeSymlink == 0 {
				id := inode{uint64(sys.Dev), sys.Ino}
				if first, seen := e.links[id]; seen {
					st.Linkname = first
				} else {
					e.links[id] = e.rel
				}
			}
		}
	}
	if err := xattrs(e.path, st); err != nil {
		return nil, err
	}
	if f.version != nil && fi.Mode().IsRegular() {
		if v := f.version(fi, time.Now()); v != nil {
			if st.Xattrs == nil {
				st.Xattrs = map[string][]byte{}
			}
			st.Xattrs[f.xattr] = v
		}
	}
	return st, nil
}

func xattrs(path string, st *types.Stat) error {
	keys, err := sysx.LListxattr(path)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "listxattr", Path: path, Err: err}
	}
	for _, k := range keys {
		v, err := sysx.LGetxattr(path, k)
		if err != nil {
			continue // not for us to read, or gone
		}
		if st.Xattrs == nil {
			st.Xattrs = make(map[string][]byte, len(keys))
		}
		st.Xattrs[k] = v
	}
	return nil
}
