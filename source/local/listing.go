package local

import (
	"io/fs"
	"iter"
)

// An Item is one path of a Tree.
type Item struct {
	Path     string
	Mode     fs.FileMode // with the type
	UID, GID uint32
	Link     string   // target of a symlink
	Sum      [32]byte // SHA-256 of a file
	Xattrs   string   // in no particular form; equal for equal ones
}

// Items visits what is in the tree, directories before what is in them. It reads nothing,
// and what it returns is good even when t was released.
func (t *Tree) Items() iter.Seq[Item] {
	entries := t.index.entries
	return func(yield func(Item) bool) {
		for i := range entries {
			e := &entries[i]
			it := Item{Path: e.path, Mode: e.mode, UID: e.uid, GID: e.gid, Sum: e.sum, Xattrs: e.xattrs}
			if e.kind == kindSymlink {
				it.Link = e.link
			}
			if !yield(it) {
				return
			}
		}
	}
}
