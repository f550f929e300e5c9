package snapshot

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/pkg/archive"
	"golang.org/x/sys/unix"
)

// An extractor applies a tar to an empty directory, in the overlay format.
type extractor struct {
	root   string
	opaque string

	opaqueRoot bool
	whiteouts  []string // host paths of whiteouts made
	dirs       map[string]bool
	parents    map[string]bool
}

func (x *extractor) apply(ctx context.Context, r io.Reader) (int64, error) {
	x.dirs, x.parents = map[string]bool{}, map[string]bool{}
	n, err := archive.Apply(ctx, x.root, r, archive.WithFilter(x.see), archive.WithConvertWhiteout(x.whiteout))
	if err != nil {
		return n, err
	}
	// A directory that took the place of a whiteout hides what the whiteout hid.
	for _, p := range x.whiteouts {
		if isDir(p) {
			if err := unix.Lsetxattr(p, x.opaque, []byte{'y'}, 0); err != nil {
				return n, &os.PathError{Op: "setxattr", Path: p, Err: err}
			}
		}
	}
	return n, nil
}

// see notes which directories the tar speaks of.
func (x *extractor) see(h *tar.Header) (bool, error) {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if h.Typeflag == tar.TypeDir {
		x.dirs[name] = true
	}
	for dir, _ := split(name); dir != "" && !x.parents[dir]; dir, _ = split(dir) {
		x.parents[dir] = true
	}
	if name == "" && h.Typeflag == tar.TypeDir {
		// containerd leaves the root alone; its mode is part of the image all the same.
		if err := os.Lchown(x.root, h.Uid, h.Gid); err != nil {
			return false, err
		}
		return false, unix.Chmod(x.root, uint32(h.Mode&0o7777))
	}
	return true, nil
}

// implicit are the directories that were made without an entry of their own.
func (x *extractor) implicit() []string {
	maps.DeleteFunc(x.parents, func(p string, _ bool) bool { return x.dirs[p] })
	return slices.Sorted(maps.Keys(x.parents))
}

func (x *extractor) whiteout(h *tar.Header, p string) (bool, error) {
	dir, base := filepath.Dir(p), filepath.Base(p)
	if base == whiteoutOpaque {
		if dir == x.root {
			x.opaqueRoot = true
		}
		return false, unix.Lsetxattr(dir, x.opaque, []byte{'y'}, 0)
	}
	name, ok := strings.CutPrefix(base, whiteoutPrefix)
	if !ok {
		return true, nil
	}
	if strings.HasPrefix(name, whiteoutPrefix) {
		return false, nil // other AUFS metadata
	}
	if name == "" || name == "." || name == ".." {
		return false, fmt.Errorf("invalid whiteout %q", h.Name)
	}
	target := filepath.Join(dir, name)
	err := unix.Mknod(target, unix.S_IFCHR, 0)
	if err == unix.EEXIST {
		// A whiteout is about lower layers; what this layer has itself stays.
		if isDir(target) {
			x.whiteouts = append(x.whiteouts, target)
		}
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "whiteout", Path: target, Err: err}
	}
	x.whiteouts = append(x.whiteouts, target)
	return false, os.Lchown(target, h.Uid, h.Gid)
}

// fixImplicit gives directories that the layer's tar did not describe the attributes they
// have beneath. lower is called only if there are any.
func (l *layer) fixImplicit(lower func() *View) error {
	l.mu.Lock()
	n := len(l.row.Implicit)
	l.mu.Unlock()
	if n == 0 {
		return nil
	}
	l.fix.Lock()
	defer l.fix.Unlock()
	l.mu.Lock()
	dirs, dir := l.row.Implicit, l.dir
	l.mu.Unlock()
	if len(dirs) == 0 {
		return nil
	}
	below, own := lower(), newView(l.s.mnt.xattr(), dir)
	for _, rel := range dirs {
		host, st, err := below.find("lstat", rel)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !isDirMode(st.Mode) {
			continue
		}
		if err != nil {
			return err
		}
		d, err := own.dir("lstat", rel)
		if err != nil {
			continue // replaced by something else later in the same tar
		}
		if err := setAttributes(host, d.parts[0], st); err != nil {
			return err
		}
		if err := setTimes(d.parts[0], st); err != nil {
			return err
		}
	}
	l.mu.Lock()
	l.row.Implicit = nil
	l.mu.Unlock()
	l.persist(true, nil)
	return nil
}
