package local

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"
)

// verify makes tree and index agree when that is not certain: it reads all files, removes
// what the index does not know or knows differently, and returns an index of the rest.
func verify(ctx context.Context, dir string, x *index) (*index, error) {
	if err := os.RemoveAll(filepath.Join(dir, "tmp")); err != nil {
		return nil, err
	}
	tree := filepath.Join(dir, "tree")
	seen := make([]bool, len(x.entries))
	err := filepath.WalkDir(tree, func(name string, d fs.DirEntry, err error) error {
		if name == tree && errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || name == tree {
			return err
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		path := filepath.ToSlash(name[len(tree)+1:])
		i, ok := find(x.entries, path)
		if ok {
			if ok, err = verifyEntry(tree, x, i, d, seen); err != nil {
				return err
			}
		}
		if ok {
			seen[i] = true
			return nil
		}
		if err := os.RemoveAll(name); err != nil {
			return err
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	n := &index{entries: make([]entry, 0, len(x.entries))}
	for i := range x.entries {
		if seen[i] {
			n.entries = append(n.entries, x.entries[i])
		}
	}
	setEnds(n.entries)
	return n, nil
}

// verifyEntry reports whether what is on disk is entry i. Of a directory it is enough
// that it is one: with other metadata its entry is changed so that it will be set again.
func verifyEntry(tree string, x *index, i int, d fs.DirEntry, seen []bool) (bool, error) {
	e := &x.entries[i]
	name := filepath.Join(tree, e.path)
	fi, err := d.Info()
	if err != nil {
		return false, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return false, nil
	}
	same := st.Uid == e.uid && st.Gid == e.gid && fi.ModTime().UnixNano() == e.mtime
	switch {
	case fi.IsDir() && e.kind == kindDir:
		if !same || fi.Mode()&modeBits != e.mode&modeBits {
			e.mtime = math.MinInt64
		}
		return true, nil
	case !same || fi.Mode().Type() != e.mode.Type():
		return false, nil
	case e.kind == kindSymlink:
		link, err := os.Readlink(name)
		return link == e.link, err
	case fi.Mode() != e.mode || fi.Size() != e.size:
		return false, nil
	case e.kind == kindHardlink:
		j, ok := find(x.entries, e.link)
		if !ok || !seen[j] {
			return false, nil
		}
		target, err := os.Lstat(filepath.Join(tree, e.link))
		return err == nil && os.SameFile(fi, target), err
	case e.kind == kindFile:
		sum, err := sumFile(name)
		return sum == e.sum, err
	}
	return false, nil
}

func sumFile(name string) (sum [32]byte, err error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return sum, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}
