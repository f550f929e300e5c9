package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/dbuild/dbuild/internal/treehash"
	digest "github.com/opencontainers/go-digest"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// A Tree is a directory as a client had it at one time. It is immutable and stays so
// until it is released by all who retained it.
type Tree struct {
	index *index
	root  string // directory with the files

	mu    sync.Mutex
	uses  int
	close func() // run when uses is zero

	context func() [32]byte
}

var (
	_ treehash.FS       = (*Tree)(nil)
	_ treehash.Digester = (*Tree)(nil)
)

func newTree(x *index, root string, done func()) *Tree {
	return &Tree{
		index: x, root: root, uses: 1, close: done,
		context: sync.OnceValue(func() [32]byte { return contextSum(x.entries) }),
	}
}

// Retain adds a use, and returns t.
func (t *Tree) Retain() *Tree {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.uses == 0 {
		panic("local: Retain of a released Tree")
	}
	t.uses++
	return t
}

// tryRetain is Retain that reports whether the tree still was in use.
func (t *Tree) tryRetain() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.uses > 0 {
		t.uses++
		return true
	}
	return false
}

// Release ends a use. After the last one the directory may change.
func (t *Tree) Release() {
	t.mu.Lock()
	t.uses--
	last := t.uses == 0
	t.mu.Unlock()
	if last {
		t.close()
	}
}

// Digest identifies the content: it is equal for trees of equal names, types, modes,
// owners, attributes, link targets and file bytes, whatever their times.
func (t *Tree) Digest() digest.Digest {
	return digest.NewDigestFromBytes(digest.SHA256, t.index.root[:])
}

// ContextDigest identifies what is the same on every machine: paths, types, permissions,
// link targets and file bytes. Empty directories count; owners and attributes do not.
func (t *Tree) ContextDigest() digest.Digest {
	sum := t.context()
	return digest.NewDigestFromBytes(digest.SHA256, sum[:])
}

// Dir is the directory that holds the files, for mounting read-only.
func (t *Tree) Dir() string { return t.root }

// Len returns the number of files and directories.
func (t *Tree) Len() int { return len(t.index.entries) }

func (t *Tree) path(p string) string { return filepath.Join(t.root, p) }

// HostPath returns where a regular file is, for reading it or making a hard link to it.
// It must not be written or given other metadata; nor will it ever be.
func (t *Tree) HostPath(path string) (string, error) {
	e, err := t.get("open", path)
	if err != nil {
		return "", err
	}
	if e.kind != kindFile && e.kind != kindHardlink {
		return "", t.unusable("open", e)
	}
	return t.path(path), nil
}

func (t *Tree) get(op, path string) (*entry, error) {
	i, ok := find(t.index.entries, path)
	if !ok {
		return nil, &fs.PathError{Op: op, Path: path, Err: fs.ErrNotExist}
	}
	return &t.index.entries[i], nil
}

var errUnread = errors.New("the client could not read this file")

func (t *Tree) unusable(op string, e *entry) error {
	err := error(syscall.EINVAL)
	switch e.kind {
	case kindBad:
		err = errUnread
	case kindDir:
		err = syscall.EISDIR
	}
	return &fs.PathError{Op: op, Path: e.path, Err: err}
}

// Lstat implements treehash.FS.
func (t *Tree) Lstat(path string) (*fstypes.Stat, error) {
	if path == "" {
		return &fstypes.Stat{Mode: uint32(fs.ModeDir | 0o755)}, nil
	}
	e, err := t.get("lstat", path)
	if err != nil {
		return nil, err
	}
	if e.kind == kindBad {
		return nil, t.unusable("lstat", e)
	}
	st := &fstypes.Stat{
		Path: e.path, Mode: uint32(e.mode), Uid: e.uid, Gid: e.gid, Size: e.size, ModTime: e.mtime,
	}
	if e.kind == kindSymlink {
		st.Linkname = e.link
	}
	if e.xattrs != "" {
		st.Xattrs = map[string][]byte{}
		err = unpackXattrs(e.xattrs, func(name string, value []byte) error {
			st.Xattrs[name] = value
			return nil
		})
	}
	return st, err
}

// ReadDir implements treehash.FS.
func (t *Tree) ReadDir(path string) ([]string, error) {
	list, i, end := t.index.entries, 0, len(t.index.entries)
	prefix := 0
	if path != "" {
		d, ok := find(list, path)
		if !ok {
			return nil, &fs.PathError{Op: "readdir", Path: path, Err: fs.ErrNotExist}
		}
		if list[d].kind != kindDir {
			return nil, &fs.PathError{Op: "readdir", Path: path, Err: syscall.ENOTDIR}
		}
		i, end, prefix = d+1, int(list[d].end), len(path)+1
	}
	var names []string
	for i < end {
		names = append(names, list[i].path[prefix:])
		if list[i].kind == kindDir {
			i = int(list[i].end)
		} else {
			i++
		}
	}
	return names, nil
}

// Open implements treehash.FS.
func (t *Tree) Open(path string) (io.ReadCloser, error) {
	name, err := t.HostPath(path)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s of a synced directory: %w", strings.TrimPrefix(path, "/"), err)
	}
	return f, nil
}

// FileDigest implements treehash.Digester. It reads nothing.
func (t *Tree) FileDigest(path string) (sum [32]byte, ok bool) {
	i, ok := find(t.index.entries, path)
	if !ok {
		return sum, false
	}
	e := &t.index.entries[i]
	return e.sum, e.kind == kindFile || e.kind == kindHardlink
}
