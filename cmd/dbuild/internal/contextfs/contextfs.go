// Package contextfs serves a directory to a build.
//
// It is an fsutil.FS that says the same about files as fsutil's own, and one thing more
// for a daemon that asks for it: which version of a regular file is there, so that a
// change shows even where size and modification time are as before.
package contextfs

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sys/unix"
)

// An FS is a directory of this machine.
type FS struct {
	root    string
	version func([]byte, Version) []byte
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

// WithVersions makes f tell, in the extended attribute name, what version appends for a
// regular file as it is now. If it appends nothing, nothing is told.
func (f *FS) WithVersions(name string, version func([]byte, Version) []byte) *FS {
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
		if err != nil && gone(err) {
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
		var it item
		if err := it.look(&unix.Stat_t{}, unix.AT_FDCWD, "", e.path, time.Now().UnixNano()); err != nil {
			return nil, err
		}
		var err error
		if it.xattrs, err = byPath(e.path).xattrs(); err != nil {
			return nil, err
		}
		st := &types.Stat{}
		it.fill(st, e.rel, e.links)
		e.fs.addVersion(st, &it, nil)
		e.stat = st
	}
	return &fsutil.StatInfo{Stat: e.stat.Clone()}, nil
}

// addVersion adds the version of a regular file to its attributes. It is written to buf
// as far as that has room.
func (f *FS) addVersion(st *types.Stat, it *item, buf []byte) {
	if f.version == nil || !it.hasVersion {
		return
	}
	v := f.version(buf[:0], it.v)
	if len(v) == 0 {
		return
	}
	if st.Xattrs == nil {
		st.Xattrs = make(map[string][]byte, 1)
	}
	st.Xattrs[f.xattr] = v
}
