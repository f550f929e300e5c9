package local

import (
	"encoding/binary"
	"slices"
	"strings"
)

// maxXattrs bounds the attributes of one file, names and values, in bytes.
const maxXattrs = 64 << 10

type xattr struct{ name, value []byte }

// keepXattr says which attributes of a client's files enter a tree. Those of overlayfs
// would change what a layer means; the others belong to the client's system.
func keepXattr(name string) bool {
	return name == "security.capability" ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

// packXattrs encodes attributes as one string, equal for equal sets. It sorts list.
func packXattrs(list []xattr) string {
	if len(list) == 0 {
		return ""
	}
	slices.SortFunc(list, func(a, b xattr) int { return strings.Compare(string(a.name), string(b.name)) })
	var b []byte
	for _, x := range list {
		b = binary.AppendUvarint(b, uint64(len(x.name)))
		b = append(b, x.name...)
		b = binary.AppendUvarint(b, uint64(len(x.value)))
		b = append(b, x.value...)
	}
	return string(b)
}

// unpackXattrs calls fn for each attribute of a packed string.
func unpackXattrs(s string, fn func(name string, value []byte) error) error {
	b := []byte(s)
	next := func() []byte {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			b = nil
			return nil
		}
		v := b[w : w+int(n)]
		b = b[w+int(n):]
		return v
	}
	for len(b) > 0 {
		name := next()
		if err := fn(string(name), next()); err != nil {
			return err
		}
	}
	return nil
}
