package local

import (
	"io/fs"
	"slices"
	"strings"

	"github.com/tonistiigi/fsutil"
)

// A kind is what an entry is. The values are written to the index and hashed.
type kind byte

const (
	kindDir      kind = 'd'
	kindFile     kind = 'f'
	kindSymlink  kind = 'l'
	kindHardlink kind = 'h' // another name of the file at entry.link
	// kindBad is a file whose content the client did not give: it could not open it.
	// There is nothing at its path; using it is an error.
	kindBad kind = 'x'
)

// An entry is one path of a tree.
type entry struct {
	path   string
	link   string // target of a symlink; first name of a hard link
	xattrs string // as encoded by packXattrs
	stat   string // the client's StatXattr; empty: do not rely on it
	size   int64  // bytes of a file or a symlink's target
	mtime  int64  // nanoseconds
	mode   fs.FileMode
	uid    uint32
	gid    uint32
	kind   kind
	sum    [32]byte // SHA-256 of a file, or of the file a hard link names
	end    int32    // of a directory: index after its last descendant; not written
}

// sameMeta reports whether a and b differ at most in content.
func (e *entry) sameMeta(o *entry) bool {
	return e.mode == o.mode && e.mtime == o.mtime && e.uid == o.uid && e.gid == o.gid && e.xattrs == o.xattrs
}

// compare orders paths as fsutil sends them: a directory, its content, its next sibling.
func compare(a, b string) int { return fsutil.ComparePath(a, b) }

// find returns the index of path in list, which is sorted.
func find(list []entry, path string) (int, bool) {
	return slices.BinarySearchFunc(list, path, func(e entry, p string) int { return compare(e.path, p) })
}

// setEnds fills in the ends of directories.
func setEnds(list []entry) {
	var open []int // directories around the current entry
	for i := range list {
		for len(open) > 0 && !within(list[i].path, list[open[len(open)-1]].path) {
			list[open[len(open)-1]].end = int32(i)
			open = open[:len(open)-1]
		}
		if list[i].kind == kindDir {
			open = append(open, i)
		}
	}
	for _, d := range open {
		list[d].end = int32(len(list))
	}
}

// within reports whether path is below dir.
func within(path, dir string) bool {
	return len(path) > len(dir) && path[len(dir)] == '/' && path[:len(dir)] == dir
}

// dirname returns the directory of a path, "" for the root, without allocating.
func dirname(path string) string {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i]
	}
	return ""
}
