package snapshot

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// writeLiveTar writes a directory that processes may be changing as an OCI layer tar. What
// vanishes meanwhile is left out; a file that shrinks is filled up with zeros, as other
// programs do it. Each directory is reached through the one above it, which stays open, so
// that no link put in its place leads elsewhere. Times keep their nanoseconds, which
// compilers compare. The root is the first entry.
func writeLiveTar(ctx context.Context, w io.Writer, dir, opaque string) error {
	t := &liveTar{tarWriter{ctx: ctx, tw: tar.NewWriter(w), opaque: opaque, links: map[inode]string{}, buf: make([]byte, 256<<10), live: true}}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	h, err := t.header(fdPath(fd)+"/.", ".", &st)
	if err != nil {
		return err
	}
	h.ModTime = time.Unix(0, 0) // nobody restores it: what was unpacked gives the same bytes again
	if err := t.tw.WriteHeader(h); err != nil {
		return err
	}
	if err := t.below(fd, ""); err != nil {
		return err
	}
	return t.tw.Close()
}

type liveTar struct{ tarWriter }

// fdPath leads to an open file. As a directory it is written with "/." after it.
func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// below writes what is in a directory.
func (t *liveTar) below(fd int, rel string) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	host := fdPath(fd) + "/."
	if isOpaque(host, t.opaque) {
		if err := t.empty(join(rel, whiteoutOpaque)); err != nil {
			return err
		}
	}
	entries, err := readDir(host)
	if err != nil && !vanished(err) {
		return err
	}
	for _, e := range entries {
		if err := t.entry(fd, rel, e.Name()); err != nil {
			return err
		}
	}
	return nil
}

// vanished reports whether an error means that a file is another one by now, or none.
func vanished(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ESTALE)
}

func (t *liveTar) entry(parent int, above, name string) error {
	host, rel := fdPath(parent)+"/"+name, join(above, name)
	// Looked at before it is opened for reading: to open a device can do something.
	fd, err := unix.Open(host, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if vanished(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open /%s: %w", rel, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat /%s: %w", rel, err)
	}
	if isWhiteout(&st) {
		return t.empty(join(above, whiteoutPrefix+name))
	}
	if strings.HasPrefix(name, whiteoutPrefix) {
		return fmt.Errorf("/%s: in a layer, a name that begins with %s stands for a deleted file", rel, whiteoutPrefix)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		host = fdPath(fd) + "/."
	}
	h, err := t.header(host, rel, &st)
	if vanished(err) {
		if key := (inode{uint64(st.Dev), st.Ino}); t.links[key] == rel {
			delete(t.links, key) // other names of the file cannot refer to this one
		}
		return nil
	}
	if err != nil || h == nil {
		return err
	}
	if err := t.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("tar /%s: %w", rel, err)
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return t.regular(fd, rel, h.Size)
	case tar.TypeDir:
		return t.below(fd, rel)
	}
	return nil
}

// regular writes the content of an open file. That cannot vanish.
func (t *liveTar) regular(fd int, rel string, size int64) error {
	if size == 0 {
		return nil
	}
	in, err := unix.Open(fdPath(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /%s: %w", rel, err)
	}
	defer unix.Close(in)
	return t.content(in, "/"+rel, size)
}
