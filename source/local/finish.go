package local

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

// entry makes an entry of what the client said. Its strings are those of the old entry of
// the same path where they are equal. The kind is zero for what cannot be in a tree.
func (t *transfer) entry(s *stat) (entry, error) {
	var none entry
	old := &none
	if t.oi < len(t.old) && t.old[t.oi].path == view(s.path) {
		old = &t.old[t.oi]
	}
	e := entry{
		path: same(old.path, s.path), mode: s.mode & (modeBits | fs.ModeDir | fs.ModeSymlink),
		uid: s.uid, gid: s.gid, mtime: s.mtime, size: s.size,
	}
	if s.size < 0 {
		return e, fmt.Errorf("client sent the size %d of %.100q", s.size, s.path)
	}
	version, keep, err := selectXattrs(s, e.path)
	if err != nil {
		return e, err
	}
	e.stat = same(old.stat, version)
	e.xattrs = packXattrs(keep)
	switch {
	case s.mode.IsDir():
		e.kind, e.size, e.stat = kindDir, 0, ""
	case s.mode.Type() == fs.ModeSymlink:
		if len(s.link) == 0 || len(s.link) > maxPath || slices.Contains(s.link, 0) {
			return e, fmt.Errorf("client sent %.100q as a link to %.100q", s.path, s.link)
		}
		e.kind, e.link, e.size, e.stat, e.xattrs = kindSymlink, same(old.link, s.link), int64(len(s.link)), "", ""
	case !s.mode.IsRegular():
	case len(s.link) > 0:
		e.kind, e.link, e.size, e.stat = kindHardlink, same(old.link, s.link), 0, ""
	default:
		e.kind = kindFile
		if t.late && old.kind == kindFile && e.stat != "" && e.stat == old.stat {
			e.xattrs = old.xattrs
		}
	}
	return e, nil
}

// selectXattrs returns what of a file's attributes counts: the value of StatXattr, and
// those to keep.
func selectXattrs(s *stat, path string) (version []byte, keep []xattr, err error) {
	n := 0
	keep = s.xattrs[:0]
	for _, x := range s.xattrs {
		switch n += len(x.name) + len(x.value); {
		case n > maxXattrs:
			return nil, nil, fmt.Errorf("the extended attributes of %.100q are larger than %d bytes", path, maxXattrs)
		case view(x.name) == StatXattr:
			if len(x.value) <= 128 {
				version = x.value
			}
		case keepXattr(view(x.name)):
			keep = append(keep, x)
		}
	}
	return version, keep, nil
}

// same returns b as a string: s itself if it is equal.
func same(s string, b []byte) string {
	if s == view(b) {
		return s
	}
	return strings.Clone(view(b))
}

// finish completes the tree when all content is there.
func (t *transfer) finish() error {
	for _, f := range t.asked {
		e := &t.out[f.idx]
		if f.state != unchanged {
			if err := t.touch(e.path); err != nil {
				return err
			}
		}
		switch f.state {
		case unread:
			t.warn(e.path, "the client could not read it")
			if f.occupied {
				if err := t.disk.remove(e.path); err != nil {
					return err
				}
			}
			*e = entry{path: e.path, kind: kindBad}
			continue
		case stored:
			if f.old != nil {
				t.fresh[e.path] = struct{}{}
			}
		}
		e.sum, e.xattrs = f.sum, f.want.xattrs
		if f.n != e.size { // it changed while it was read
			e.size, e.stat = f.n, ""
			t.changed = true
		}
	}
	if err := t.finishLinks(); err != nil {
		return err
	}
	for _, i := range t.dirs {
		t.touched[t.out[i].path] = struct{}{}
	}
	for dir := range t.touched {
		if dir == "" {
			continue
		}
		i, ok := find(t.out, dir)
		if !ok || t.out[i].kind != kindDir {
			continue // it was removed with what was in it
		}
		if err := t.dirty(); err != nil {
			return err
		}
		if err := t.disk.setDir(&t.out[i]); err != nil {
			return err
		}
	}
	return nil
}

// finishLinks makes the hard links that are new, or whose file is.
func (t *transfer) finishLinks() error {
	for _, i := range t.links {
		e := &t.out[i]
		j, ok := find(t.out, e.link)
		if !ok {
			return fmt.Errorf("client sent the hard link %q to the unknown file %q", e.path, e.link)
		}
		target := &t.out[j]
		if target.kind == kindBad {
			*e = entry{path: e.path, kind: kindBad}
			if err := t.remove(e.path); err != nil {
				return err
			}
			continue
		}
		e.size, e.sum = target.size, target.sum
		e.mtime, e.mode, e.uid, e.gid, e.xattrs = target.mtime, target.mode, target.uid, target.gid, target.xattrs
		if t.linked(e) {
			continue
		}
		if err := t.touch(e.path); err != nil {
			return err
		}
		if err := t.disk.link(e.link, e.path); err != nil {
			return err
		}
	}
	return nil
}

// linked reports whether e is a hard link already.
func (t *transfer) linked(e *entry) bool {
	if _, ok := t.fresh[e.link]; ok {
		return false
	}
	i, ok1 := find(t.old, e.path)
	j, ok2 := find(t.old, e.link)
	return ok1 && ok2 && t.old[i].kind == kindHardlink && t.old[i].link == e.link && t.old[j].kind == kindFile
}

// partial returns what is known of the tree after a transfer that failed.
func (t *transfer) partial() []entry {
	pending := map[int]*file{}
	for _, f := range t.asked {
		pending[f.idx] = f
	}
	var list []entry
	for i := range t.out {
		e := t.out[i]
		f := pending[i]
		switch {
		case e.kind == kindHardlink || e.kind == kindBad:
			continue
		case f == nil:
		case f.state == stored && f.n == e.size:
			e.sum, e.xattrs = f.sum, f.want.xattrs
		case f.state == unchanged || f.state == waiting && f.old != nil:
			e = *f.old
		default:
			continue
		}
		list = append(list, e)
	}
	return append(list, t.old[t.oi:]...)
}
