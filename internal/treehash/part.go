package treehash

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"path"
	"strings"
)

// A Part names what is read of a tree: one path, or with Wildcard every path that
// matches it component by component as in path.Match. A directory stands for all that is
// in it, as far as Include and Exclude (patterns as in .dockerignore, relative to the
// directory) admit it.
type Part struct {
	Path     string
	Wildcard bool
	// FollowLinks reads what a symlink in the last element leads to instead of the link.
	FollowLinks bool
	// AllowNoMatch makes a pattern that matches nothing an empty part, not an error. A
	// path without special characters must be there all the same.
	AllowNoMatch     bool
	Include, Exclude []string
}

// ID is the part's name in cache keys: equal for equal parts only.
func (p Part) ID() [32]byte {
	w := newWriter("part")
	w.str(clean(p.Path))
	w.bool(p.Wildcard)
	w.bool(p.FollowLinks)
	w.bool(p.AllowNoMatch)
	w.list(p.Include)
	w.list(p.Exclude)
	return w.sum()
}

// clean makes a path relative to the root, without dots; "" is the root.
func clean(p string) string { return strings.TrimPrefix(path.Clean("/"+p), "/") }

// writer hashes fields so that no two sequences of fields collide.
type writer struct {
	h   hash.Hash
	buf [8]byte
}

func newWriter(kind string) *writer {
	w := &writer{h: sha256.New()}
	w.str("dbuild-tree-1")
	w.str(kind)
	return w
}

func (w *writer) num(n uint64) {
	binary.BigEndian.PutUint64(w.buf[:], n)
	w.h.Write(w.buf[:])
}

func (w *writer) str(s string) {
	w.num(uint64(len(s)))
	w.h.Write([]byte(s))
}

func (w *writer) bool(b bool) {
	if b {
		w.num(1)
	} else {
		w.num(0)
	}
}

func (w *writer) list(l []string) {
	w.num(uint64(len(l)))
	for _, s := range l {
		w.str(s)
	}
}

func (w *writer) sum() (out [32]byte) {
	w.h.Sum(out[:0])
	return out
}
