package contexthash

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
)

// A Kind is what an entry of a context is. What is neither does not count.
type Kind byte

// Kinds, as the format writes them.
const (
	File Kind = 'f'
	Dir  Kind = 'd'
	Link Kind = 'l'
)

// An Entry is a path of a context.
type Entry struct {
	Path string // relative to the root, with slashes and without "." and ".."
	Kind Kind
	Mode fs.FileMode // permissions, setuid, setgid and sticky count; those of a link do not
	Sum  [sha256.Size]byte
}

// KindOf returns the kind of a file with this mode, and false if it does not count: sockets,
// devices and named pipes.
func KindOf(mode fs.FileMode) (Kind, bool) {
	switch mode.Type() {
	case 0:
		return File, true
	case fs.ModeDir:
		return Dir, true
	case fs.ModeSymlink:
		return Link, true
	}
	return 0, false
}

const treeHeader = "dbuild context v1\n"

// Tree returns the digest of the context that has these entries, in whatever order.
func Tree(entries []Entry) digest.Digest {
	entries = slices.Clone(entries)
	slices.SortFunc(entries, func(a, b Entry) int { return strings.Compare(a.Path, b.Path) })
	h := sha256.New()
	h.Write([]byte(treeHeader))
	var line []byte
	for _, e := range entries {
		line = append(line[:0], byte(e.Kind), ' ')
		line = fmt.Appendf(line, "%04o ", permissions(e))
		if e.Kind == Dir {
			line = append(line, '-')
		} else {
			line = hex.AppendEncode(line, e.Sum[:])
		}
		line = append(append(line, ' '), e.Path...)
		h.Write(append(line, 0))
	}
	return digest.NewDigest(digest.SHA256, h)
}

// permissions are the low twelve bits of a Unix mode.
func permissions(e Entry) uint32 {
	if e.Kind == Link {
		return 0o777
	}
	m := uint32(e.Mode.Perm())
	for _, b := range []struct {
		mode fs.FileMode
		bit  uint32
	}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}} {
		if e.Mode&b.mode != 0 {
			m |= b.bit
		}
	}
	return m
}
