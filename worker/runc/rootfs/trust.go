package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// bundles are where systems keep the certificates that their programs trust, in the order in
// which one is chosen for programs that are told of a file.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Alpine, Arch
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // Fedora
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/pki/tls/cacert.pem",
	"/etc/ssl/cert.pem",
}

// maxBundle bounds a bundle, in bytes: it is read into memory.
const maxBundle = 10 << 20

// These stand around what is added to a bundle. Programs that look for BuildKit's find ours.
const (
	beginCA = "\n# buildkit proxy CA begin\n"
	endCA   = "# buildkit proxy CA end\n"
)

// A Trust is a certificate that the bundles of a root file system have for a while. It is also
// put where tools look that write the bundles anew.
type Trust struct {
	root    *os.File
	pem     []byte
	block   []byte // what was added to bundles
	bundles []bundle
	anchors []anchor
}

type bundle struct {
	path   string // in the root, without links
	before []byte
	mtime  unix.Timespec // before
	// What it was like once it was written. An overlay has another inode for a changed file.
	inode   uint64
	written unix.Timespec
}

// AddTrust adds a certificate to all bundles of a root file system in which nothing runs yet.
// Remove must be called in the end.
func AddTrust(rootfs string, pem []byte) (_ *Trust, err error) {
	root, err := os.OpenFile(rootfs, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	t := &Trust{root: root, pem: pem, block: slices.Concat([]byte(beginCA), pem, []byte(endCA))}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Remove())
		}
	}()
	for _, name := range bundles {
		rel, err := t.find(name)
		if err != nil {
			return t, err
		}
		if t.has(rel) {
			continue
		}
		if err := t.add(rel); err != nil {
			return t, err
		}
	}
	for _, name := range anchorDirs {
		if err := t.addAnchor(name); err != nil {
			return t, err
		}
	}
	return t, nil
}

// find returns where something is in the root, without links.
func (t *Trust) find(name string) (rel string, err error) {
	full, err := securejoin.SecureJoin(t.root.Name(), name)
	if err == nil {
		rel, err = filepath.Rel(t.root.Name(), full)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, err)
	}
	return rel, nil
}

func (t *Trust) has(rel string) bool {
	return slices.ContainsFunc(t.bundles, func(b bundle) bool { return b.path == rel })
}

// Bundle is what the root file system itself trusts; empty if it has no bundle.
func (t *Trust) Bundle() []byte {
	if len(t.bundles) == 0 {
		return nil
	}
	return t.bundles[0].before
}

func (t *Trust) add(rel string) error {
	f, content, st, err := t.open(rel)
	if f == nil {
		return err
	}
	defer f.Close()
	b := bundle{path: rel, before: content, mtime: st.Mtim}
	t.bundles = append(t.bundles, b)
	if _, err := f.WriteAt(t.block, int64(len(content))); err != nil {
		return err
	}
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	last := &t.bundles[len(t.bundles)-1]
	last.inode, last.written = st.Ino, st.Mtim
	return nil
}

// Remove removes the certificate from the bundles, whatever else was done to them. One that
// nothing else was done to is then as it was, with its time.
func (t *Trust) Remove() error {
	defer t.root.Close()
	var errs []error
	for _, b := range t.bundles {
		errs = append(errs, t.remove(b))
	}
	if len(t.anchors) > 0 { // bundles may have been made of them that were not there before
		for _, name := range bundles {
			if rel, err := t.find(name); err == nil && !t.has(rel) {
				errs = append(errs, t.remove(bundle{path: rel}))
			}
		}
	}
	for _, a := range t.anchors {
		errs = append(errs, t.removeAnchor(a))
	}
	return errors.Join(errs...)
}

func (t *Trust) remove(b bundle) error {
	f, content, st, err := t.open(b.path)
	if f == nil {
		return err
	}
	defer f.Close()
	// Tools add the certificate as it is.
	left, mtime := bytes.ReplaceAll(bytes.ReplaceAll(content, t.block, nil), t.pem, nil), st.Mtim
	if len(left) == len(content) {
		return nil
	}
	if st.Ino == b.inode && st.Mtim == b.written && bytes.Equal(left, b.before) {
		mtime = b.mtime
	}
	if _, err := f.WriteAt(left, 0); err != nil {
		return err
	}
	if err := f.Truncate(int64(len(left))); err != nil {
		return err
	}
	err = unix.UtimesNanoAt(unix.AT_FDCWD, procPath(int(f.Fd())), []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}, 0)
	return os.NewSyscallError("utimensat", err)
}

// open opens a bundle and reads it. f is nil if there is no such file, and nothing else is
// opened: a step may have put a pipe or a device there.
func (t *Trust) open(rel string) (f *os.File, content []byte, st unix.Stat_t, err error) {
	fail := func(err error) (*os.File, []byte, unix.Stat_t, error) {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
			err = nil
		}
		return nil, nil, st, err
	}
	look, err := openat2(int(t.root.Fd()), rel, unix.O_PATH|unix.O_NOFOLLOW, inRoot)
	if err != nil {
		return fail(&os.PathError{Op: "open", Path: "/" + rel, Err: err})
	}
	defer unix.Close(look)
	if err := unix.Fstat(look, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fail(err)
	}
	if st.Size > maxBundle {
		return fail(fmt.Errorf("/%s exceeds %d bytes", rel, maxBundle))
	}
	// The same file: whatever is at its path by now.
	f, err = os.OpenFile(procPath(look), os.O_RDWR, 0)
	if err != nil {
		return fail(err)
	}
	content, err = io.ReadAll(io.LimitReader(f, maxBundle))
	if err != nil {
		f.Close()
		return fail(err)
	}
	return f, content, st, nil
}

// procPath is a path of an open file, whatever its name is.
func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
