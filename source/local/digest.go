package local

import (
	"crypto/sha256"
	"encoding/binary"
	"io/fs"
	"slices"
	"strings"
)

// modeBits are the bits of a mode that count: what a layer keeps.
const modeBits = fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky

// rootSum digests what treehash digests of a whole tree: everything but times.
func rootSum(list []entry) [32]byte {
	return sumEntries("dbuild local tree 1\n", list, func(b []byte, e *entry) []byte {
		b = binary.LittleEndian.AppendUint32(b, e.uid)
		b = binary.LittleEndian.AppendUint32(b, e.gid)
		b = binary.AppendUvarint(b, uint64(len(e.xattrs)))
		return append(b, e.xattrs...)
	})
}

// contextSum digests what is the same wherever and by whomever a context is checked out:
// paths, types, permissions, link targets and file content, in order of path bytes.
func contextSum(list []entry) [32]byte {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.path, b.path) })
	return sumEntries("dbuild context v1\n", list, func(b []byte, _ *entry) []byte { return b })
}

// sumEntries hashes the entries in order. Hard links count as the files they are.
func sumEntries(domain string, list []entry, more func([]byte, *entry) []byte) [32]byte {
	h := sha256.New()
	buf := append(make([]byte, 0, 64<<10), domain...)
	for i := range list {
		e := &list[i]
		k := e.kind
		if k == kindHardlink {
			k = kindFile
		}
		buf = binary.AppendUvarint(buf, uint64(len(e.path)))
		buf = append(buf, e.path...)
		buf = append(buf, byte(k))
		mode := e.mode & modeBits
		if k == kindSymlink {
			mode = 0 // systems disagree about the permissions of links
		}
		buf = binary.LittleEndian.AppendUint32(buf, uint32(mode))
		switch k {
		case kindFile:
			buf = append(buf, e.sum[:]...)
		case kindSymlink:
			buf = binary.AppendUvarint(buf, uint64(len(e.link)))
			buf = append(buf, e.link...)
		}
		buf = more(buf, e)
		if len(buf) > 48<<10 {
			h.Write(buf)
			buf = buf[:0]
		}
	}
	h.Write(buf)
	return [32]byte(h.Sum(nil))
}
