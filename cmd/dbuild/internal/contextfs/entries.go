package contextfs

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/dbuild/dbuild/internal/ignore"
)

// An Entry is a path of a directory, as it is offered to the daemon.
type Entry struct {
	Path string // relative to the root
	Mode fs.FileMode
	Size int64  // bytes of a regular file
	Link string // target of a symlink
}

// Entries calls fn for all paths that the patterns admit, parents first, in the order of
// names. What disappears meanwhile is left out.
func (f *FS) Entries(ctx context.Context, p Patterns, fn func(Entry) error) error {
	return f.list(ctx, p, func(path string, it *item) error {
		e := Entry{Path: path, Mode: it.mode, Link: it.link}
		switch {
		case it.hasVersion:
			e.Size = it.v.Size
		case it.mode.IsRegular():
			e.Mode |= fs.ModeSocket
		}
		return fn(e)
	})
}

// ReadIgnore reads the ignore file in the root of a directory, if there is one.
func ReadIgnore(root string) (*ignore.File, error) {
	for _, name := range []string{ignore.Name, ignore.Alternative} {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err == nil {
			return ignore.Parse(name, data)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return &ignore.File{}, nil
}
