package treehash

import (
	"io"
	"io/fs"

	fstypes "github.com/tonistiigi/fsutil/types"
)

// Empty is a tree with nothing but its root.
var Empty FS = empty{}

type empty struct{}

func (empty) Lstat(path string) (*fstypes.Stat, error) {
	if path == "" {
		return &fstypes.Stat{Mode: uint32(fs.ModeDir | 0o755)}, nil
	}
	return nil, &fs.PathError{Op: "lstat", Path: "/" + path, Err: fs.ErrNotExist}
}

func (empty) ReadDir(path string) ([]string, error) {
	if path == "" {
		return nil, nil
	}
	return nil, &fs.PathError{Op: "readdir", Path: "/" + path, Err: fs.ErrNotExist}
}

func (empty) Open(path string) (io.ReadCloser, error) {
	return nil, &fs.PathError{Op: "open", Path: "/" + path, Err: fs.ErrNotExist}
}
