package snapshot

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	paxXattr       = "SCHILY.xattr."
)

// writeTar writes the layer in dir as an OCI layer tar: sorted, PAX, times in whole
// seconds and not later than epoch, users by number. The same files give the same bytes.
// The root itself is not an entry.
func writeTar(ctx context.Context, w io.Writer, dir, opaque string, epoch *time.Time) error {
	t := &tarWriter{ctx: ctx, tw: tar.NewWriter(w), opaque: opaque, epoch: epoch, links: map[inode]string{}, buf: make([]byte, 256<<10)}
	if isOpaque(dir, opaque) {
		if err := t.empty(whiteoutOpaque); err != nil {
			return err
		}
	}
	if err := t.dir(dir, ""); err != nil {
		return err
	}
	return t.tw.Close()
}

type tarWriter struct {
	ctx    context.Context
	tw     *tar.Writer
	opaque string
	epoch  *time.Time
	links  map[inode]string
	buf    []byte
	live   bool // see writeLiveTar
}

func (t *tarWriter) dir(host, rel string) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	entries, err := readDir(host)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := t.entry(host+"/"+e.Name(), rel, e.Name()); err != nil {
			return err
		}
	}
	return nil
}

func (t *tarWriter) entry(host, parent, name string) error {
	var st unix.Stat_t
	if err := unix.Lstat(host, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: host, Err: err}
	}
	rel := join(parent, name)
	if isWhiteout(&st) {
		return t.empty(join(parent, whiteoutPrefix+name))
	}
	if strings.HasPrefix(name, whiteoutPrefix) {
		return fmt.Errorf("/%s: in an image, a name that begins with %s stands for a deleted file", rel, whiteoutPrefix)
	}
	h, err := t.header(host, rel, &st)
	if err != nil || h == nil {
		return err
	}
	if err := t.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("tar %s: %w", rel, err)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return t.file(host, h.Size)
	case tar.TypeDir:
		if isOpaque(host, t.opaque) {
			if err := t.empty(join(rel, whiteoutOpaque)); err != nil {
				return err
			}
		}
		return t.dir(host, rel)
	}
	return nil
}

// header describes a file; nil if a tar cannot hold it.
func (t *tarWriter) header(host, rel string, st *unix.Stat_t) (*tar.Header, error) {
	h := &tar.Header{
		Format:  tar.FormatPAX,
		Name:    rel,
		Mode:    int64(st.Mode & 0o7777),
		Uid:     int(st.Uid),
		Gid:     int(st.Gid),
		ModTime: t.modTime(st),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return nil, nil // a tar cannot hold them, and they are of no use without the process
	case unix.S_IFDIR:
		h.Typeflag = tar.TypeDir
		h.Name += "/"
	case unix.S_IFREG:
		h.Typeflag = tar.TypeReg
		h.Size = st.Size
	case unix.S_IFLNK:
		target, err := os.Readlink(host)
		if err != nil {
			return nil, err
		}
		h.Typeflag = tar.TypeSymlink
		h.Linkname = target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor = int64(unix.Major(uint64(st.Rdev)))
		h.Devminor = int64(unix.Minor(uint64(st.Rdev)))
	default:
		return nil, fmt.Errorf("%s: unknown file type", rel)
	}
	if h.Typeflag != tar.TypeDir && st.Nlink > 1 {
		key := inode{uint64(st.Dev), st.Ino}
		if first, ok := t.links[key]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
		} else {
			t.links[key] = rel
		}
	}
	// On links too: whoever unpacks chowns each name, which drops capabilities.
	attrs, err := xattrs(host)
	if err != nil {
		return nil, &os.PathError{Op: "listxattr", Path: host, Err: err}
	}
	for k, v := range attrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+k] = string(v)
	}
	return h, nil
}

// empty writes a marker.
func (t *tarWriter) empty(name string) error {
	zero := time.Unix(0, 0)
	return t.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: zero, Format: tar.FormatPAX})
}

func (t *tarWriter) file(host string, size int64) error {
	if size == 0 {
		return nil
	}
	// Without os.File, which costs system calls of its own: layers have many small files.
	fd, err := unix.Open(host, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: host, Err: err}
	}
	defer unix.Close(fd)
	return t.content(fd, host, size)
}

func (t *tarWriter) content(fd int, host string, size int64) error {
	for size > 0 {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		n, err := unix.Read(fd, t.buf[:min(int64(len(t.buf)), size)])
		if err == unix.EINTR {
			continue
		}
		if err == nil && n == 0 {
			if t.live {
				n = int(min(int64(len(t.buf)), size))
				clear(t.buf[:n])
			} else {
				err = io.ErrUnexpectedEOF
			}
		}
		if err != nil {
			return &os.PathError{Op: "read", Path: host, Err: err}
		}
		if _, err := t.tw.Write(t.buf[:n]); err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}

// modTime is in whole seconds, except of directories that may change.
func (t *tarWriter) modTime(st *unix.Stat_t) time.Time {
	if t.live {
		return time.Unix(st.Mtim.Unix())
	}
	return t.clamp(time.Unix(st.Mtim.Sec, 0))
}

func (t *tarWriter) clamp(m time.Time) time.Time {
	if t.epoch != nil && m.After(*t.epoch) {
		return t.epoch.Truncate(time.Second)
	}
	return m
}
