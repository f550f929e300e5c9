// Package treehash digests parts of file trees: what is read, not when it was
// written. Two trees have equal sums if a COPY of the part would make equal layers:
// names, types, modes, owners, link targets, xattrs and file bytes count;
// modification times do not.
package treehash

import (
	"io"

	fstypes "github.com/tonistiigi/fsutil/types"
)

// An FS is a read-only tree. Paths are slash-separated, relative to the root, without
// a leading slash; "" is the root. No method follows a symlink in the last element,
// and no other element is ever a symlink: callers resolve links themselves.
// Errors for missing paths satisfy errors.Is(err, fs.ErrNotExist).
type FS interface {
	// Lstat returns mode (as os.FileMode bits), owner, size, mtime, link target,
	// device numbers and xattrs of one path.
	Lstat(path string) (*fstypes.Stat, error)
	// ReadDir returns the sorted names in a directory.
	ReadDir(path string) ([]string, error)
	Open(path string) (io.ReadCloser, error)
}

// A Digester is an FS that may know the digest of a regular file without reading it.
type Digester interface {
	FileDigest(path string) (sum [32]byte, ok bool)
}
