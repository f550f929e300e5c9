package imagediff

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
)

// xattrPrefix is where archives keep extended attributes.
const xattrPrefix = "SCHILY.xattr."

// an item is an entry of a layer as it is compared.
type item struct {
	kind         byte
	mode         int64
	uid, gid     int
	size         int64
	time         time.Time
	sum          [sha256.Size]byte
	link         string
	major, minor int64
	xattrs       map[string]string
}

func (i item) entry() *Entry {
	e := &Entry{
		Type: kindName(i.kind), Mode: fmt.Sprintf("%04o", i.mode), UID: i.uid, GID: i.gid,
		Size: i.size, Time: i.time.UTC().Format(time.RFC3339Nano), Link: i.link, Xattrs: i.xattrs,
	}
	switch i.kind {
	case tar.TypeReg:
		e.SHA256 = fmt.Sprintf("%x", i.sum)
	case tar.TypeBlock, tar.TypeChar:
		e.Device = fmt.Sprintf("%d:%d", i.major, i.minor)
	}
	return e
}

func kindName(kind byte) string {
	names := map[byte]string{
		tar.TypeReg: "file", tar.TypeDir: "directory", tar.TypeSymlink: "symlink", tar.TypeLink: "hard link",
		tar.TypeBlock: "block device", tar.TypeChar: "character device", tar.TypeFifo: "pipe",
	}
	return cmp.Or(names[kind], fmt.Sprintf("type %q", kind))
}

// differs names what of two items differs.
func (i item) differs(o item) []string {
	var out []string
	add := func(what string, differs bool) {
		if differs {
			out = append(out, what)
		}
	}
	add("type", i.kind != o.kind)
	add("content", i.kind == o.kind && (i.size != o.size || i.sum != o.sum))
	add("mode", i.mode != o.mode)
	add("owner", i.uid != o.uid || i.gid != o.gid)
	add("time", !i.time.Equal(o.time))
	add("link", i.link != o.link)
	add("device", i.major != o.major || i.minor != o.minor)
	add("xattrs", !maps.Equal(i.xattrs, o.xattrs))
	return out
}

// each calls found with the entries of an archive.
func each(ctx context.Context, r io.Reader, found func(name string, i item)) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		i := item{
			kind: h.Typeflag, mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid, size: h.Size,
			time: h.ModTime, link: h.Linkname, major: h.Devmajor, minor: h.Devminor,
		}
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, xattrPrefix); ok {
				if i.xattrs == nil {
					i.xattrs = map[string]string{}
				}
				i.xattrs[name] = v
			}
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, tr); err != nil {
			return err
		}
		sum.Sum(i.sum[:0])
		found(path.Join("/", h.Name), i)
	}
}

// compareLayers returns how the entries of two archives differ, by path. It takes memory for
// the entries of the first, not for what is in them.
func compareLayers(ctx context.Context, first, second io.Reader) ([]Path, error) {
	left := map[string]item{}
	if err := each(ctx, first, func(name string, i item) { left[name] = i }); err != nil {
		return nil, err
	}
	var out []Path
	err := each(ctx, second, func(name string, i item) {
		was, ok := left[name]
		delete(left, name)
		if !ok {
			out = append(out, Path{Path: name, Second: i.entry()})
			return
		}
		if d := was.differs(i); len(d) > 0 {
			out = append(out, Path{Path: name, Differs: d, First: was.entry(), Second: i.entry()})
		}
	})
	for name, i := range left {
		out = append(out, Path{Path: name, First: i.entry()})
	}
	slices.SortFunc(out, func(a, b Path) int { return strings.Compare(a.Path, b.Path) })
	return out, err
}
