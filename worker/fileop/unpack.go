package fileop

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/moby/go-archive/compression"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// unpack extracts the match name if it is a tar archive, compressed or not, and reports
// whether it was one. Every entry goes through the same resolution as a copy: links in
// the archive or the image do not lead out of the destination's tree.
func (c *copier) unpack(name string) (bool, error) {
	from, err := treehash.Resolve(c.src, name, true)
	if err != nil {
		return false, err
	}
	st, err := c.src.Lstat(from)
	if err != nil || !fs.FileMode(st.Mode).IsRegular() {
		return false, err
	}
	ok, err := c.isArchive(from)
	if err != nil || !ok {
		return false, err
	}
	f, err := c.src.Open(from)
	if err != nil {
		return false, err
	}
	defer f.Close()
	r, err := compression.DecompressStream(f)
	if err != nil {
		return false, err
	}
	defer r.Close()
	perm, at := c.parents()
	dir, err := c.d.mkdirAll(clean(c.a.Dest), perm, at)
	if err != nil {
		return false, err
	}
	if err := c.extract(tar.NewReader(r), dir); err != nil {
		return false, fmt.Errorf("unpack /%s: %w", name, err)
	}
	return true, nil
}

// isArchive looks whether a file starts like a tar archive.
func (c *copier) isArchive(from string) (bool, error) {
	f, err := c.src.Open(from)
	if err != nil {
		return false, err
	}
	defer f.Close()
	b := bufio.NewReader(f)
	head, err := b.Peek(10)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	if compression.Detect(head) == compression.None && len(head) < 10 {
		return false, nil
	}
	r, err := compression.DecompressStream(b)
	if err != nil {
		return false, nil
	}
	defer r.Close()
	_, err = tar.NewReader(r).Next()
	return err == nil, nil
}

// extract writes the entries of an archive below dir. Directories get their times at the
// end, when nothing is put into them any more.
func (c *copier) extract(r *tar.Reader, dir string) error {
	type made struct {
		host string
		st   *fstypes.Stat
	}
	var dirs []made
	for {
		if c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		rel := clean(h.Name)
		if rel == "" && h.Typeflag != tar.TypeDir {
			continue
		}
		p, err := below(c.d, dir, rel)
		if err != nil {
			return err
		}
		st := header(h)
		if c.owner != nil {
			st.Uid, st.Gid = uint32(c.owner.UID), uint32(c.owner.GID)
		}
		if c.time != nil {
			st.ModTime = c.time.UnixNano()
		}
		if err := c.d.mkdirs(parent(p), defaultDirMode, attr{time: c.time}); err != nil {
			return err
		}
		if h.Typeflag == tar.TypeDir {
			if p == "" {
				continue
			}
			if err := c.extractDir(p); err != nil {
				return err
			}
			dirs = append(dirs, made{c.d.host(p), st})
			continue
		}
		if err := c.extractEntry(r, h, dir, p, st); err != nil {
			return err
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := setStat(dirs[i].host, dirs[i].st); err != nil {
			return err
		}
	}
	return nil
}

// below resolves rel as if dir were the root, which is where an archive may write.
func below(d *Dest, dir, rel string) (string, error) {
	p, err := treehash.Resolve(subtree{resolver{d}, dir}, rel, false)
	return path.Join(dir, p), err
}

// subtree is a directory of a tree as a tree of its own.
type subtree struct {
	resolver
	dir string
}

func (s subtree) Lstat(p string) (*fstypes.Stat, error) { return s.resolver.Lstat(path.Join(s.dir, p)) }

func (c *copier) extractDir(p string) error {
	st, err := c.d.Lstat(p)
	if err == nil && fs.FileMode(st.Mode).IsDir() {
		return c.d.copyUp(p)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return c.d.mkdir(p, 0o700, attr{})
}

func (c *copier) extractEntry(r io.Reader, h *tar.Header, dir, p string, st *fstypes.Stat) error {
	switch h.Typeflag {
	case tar.TypeReg:
		return c.d.place(p, true, func(host string) error {
			f, err := os.OpenFile(host, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return err
			}
			defer f.Close()
			if _, err := io.Copy(f, r); err != nil {
				return err
			}
			if err := f.Close(); err != nil {
				return err
			}
			return setStat(host, st)
		})
	case tar.TypeLink:
		target, err := below(c.d, dir, clean(h.Linkname))
		if err != nil {
			return err
		}
		if target == p {
			return nil
		}
		if err := c.d.copyUpFile(target); err != nil {
			return err
		}
		return c.d.place(p, true, func(host string) error { return os.Link(c.d.host(target), host) })
	case tar.TypeSymlink:
		return c.d.place(p, true, func(host string) error {
			if err := os.Symlink(h.Linkname, host); err != nil {
				return err
			}
			return setStat(host, st)
		})
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
			return fmt.Errorf("%s: the character device 0:0 stands for a deleted file", h.Name)
		}
		return c.d.place(p, true, func(host string) error {
			if err := mknod(host, fs.FileMode(st.Mode), st); err != nil {
				return err
			}
			return setStat(host, st)
		})
	}
	return nil
}

// header turns an archive's header into a Stat.
func header(h *tar.Header) *fstypes.Stat {
	st := &fstypes.Stat{
		Mode: uint32(h.FileInfo().Mode()), Uid: uint32(h.Uid), Gid: uint32(h.Gid), Linkname: h.Linkname,
		ModTime: h.ModTime.UnixNano(), Devmajor: h.Devmajor, Devminor: h.Devminor,
	}
	for k, v := range h.PAXRecords {
		if x, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if st.Xattrs == nil {
				st.Xattrs = map[string][]byte{}
			}
			st.Xattrs[x] = []byte(v)
		}
	}
	return st
}
