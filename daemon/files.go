package daemon

import (
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/treehash"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// resolve returns p without symlinks.
func resolve(tree treehash.FS, p string) (string, error) {
	return treehash.Resolve(tree, strings.TrimPrefix(path.Clean("/"+p), "/"), true)
}

// openFile opens a regular file.
func openFile(tree treehash.FS, p string) (_ io.ReadCloser, size int64, _ error) {
	resolved, err := resolve(tree, p)
	if err != nil {
		return nil, 0, err
	}
	st, err := tree.Lstat(resolved)
	if err != nil {
		return nil, 0, err
	}
	if !fs.FileMode(st.Mode).IsRegular() {
		return nil, 0, fmt.Errorf("read %s: not a regular file", p)
	}
	f, err := tree.Open(resolved)
	return f, st.Size, err
}

// readPart reads a part of a file for a frontend; a length of 0 means to its end.
func readPart(tree treehash.FS, p string, offset, length int64) ([]byte, error) {
	if offset < 0 || length < 0 {
		return nil, errdefs.ErrInvalidArgument.WithMessage("read " + p + ": invalid range: offset and length must not be negative")
	}
	f, size, err := openFile(tree, p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if offset >= size {
		return nil, nil
	}
	if offset > 0 {
		if s, ok := f.(io.Seeker); ok {
			_, err = s.Seek(offset, io.SeekStart)
		} else {
			_, err = io.CopyN(io.Discard, f, offset)
		}
		if err != nil {
			return nil, err
		}
	}
	if length == 0 || length > maxReadFile {
		length = maxReadFile
		if size-offset > maxReadFile {
			return nil, fmt.Errorf("%s exceeds maximum allowed size of %d bytes", p, maxReadFile)
		}
	}
	return io.ReadAll(io.LimitReader(f, length))
}

// readDir lists a directory for a frontend; include is a pattern for names, or empty.
func readDir(tree treehash.FS, p, include string) ([]*fstypes.Stat, error) {
	resolved, err := resolve(tree, p)
	if err != nil {
		return nil, err
	}
	if _, err := path.Match(include, ""); err != nil {
		return nil, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("pattern %q: %v", include, err))
	}
	names, err := tree.ReadDir(resolved)
	if err != nil {
		return nil, err
	}
	var out []*fstypes.Stat
	for _, n := range names {
		if include != "" {
			if ok, _ := path.Match(include, n); !ok {
				continue
			}
		}
		st, err := tree.Lstat(path.Join(resolved, n))
		if err != nil {
			return nil, err
		}
		out = append(out, named(st, n))
	}
	return out, nil
}

// statFile tells a frontend about a file.
func statFile(tree treehash.FS, p string) (*fstypes.Stat, error) {
	resolved, err := resolve(tree, p)
	if err != nil {
		return nil, err
	}
	st, err := tree.Lstat(resolved)
	if err != nil {
		return nil, err
	}
	return named(st, path.Base(path.Clean("/"+p))), nil
}

func named(st *fstypes.Stat, name string) *fstypes.Stat {
	c := st.CloneVT()
	c.Path = name
	return c
}
