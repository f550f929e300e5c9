package rootfs

import (
	"errors"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// anchorDirs are where update-ca-certificates and its like find certificates to add to the
// bundles, which they write anew.
var anchorDirs = []string{
	"/usr/local/share/ca-certificates",          // Debian, Alpine
	"/etc/pki/ca-trust/source/anchors",          // Fedora
	"/etc/ca-certificates/trust-source/anchors", // Arch
	"/etc/pki/trust/anchors",                    // openSUSE
}

// anchorName is what ours is called. The tools want the suffix.
const anchorName = "dbuild-proxy.crt"

// linkDir is where tools link to anchors, by names and by hashes.
const linkDir = "etc/ssl/certs"

// An anchor is a certificate in an anchor directory.
type anchor struct {
	dir           string        // in the root, without links
	before, after unix.Timespec // of the directory, when the anchor was put there
}

// addAnchor puts the certificate into a directory, if that is there.
func (t *Trust) addAnchor(name string) error {
	rel, err := t.find(name)
	if err != nil {
		return err
	}
	dir, ok := t.openDir(rel)
	if !ok {
		return nil
	}
	defer unix.Close(dir)
	before, err := mtimeOf(dir)
	if err != nil {
		return err
	}
	fd, err := unix.Openat(dir, anchorName, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if errors.Is(err, unix.EEXIST) {
		return nil // somebody likes the name
	}
	if err != nil {
		return &os.PathError{Op: "create", Path: path.Join(name, anchorName), Err: err}
	}
	f := os.NewFile(uintptr(fd), anchorName)
	_, err = f.Write(t.pem)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	after, err := mtimeOf(dir)
	t.anchors = append(t.anchors, anchor{rel, before, after})
	return err
}

// removeAnchor removes an anchor, and the links to it that tools have made.
func (t *Trust) removeAnchor(a anchor) error {
	dir, ok := t.openDir(a.dir)
	if !ok {
		return nil
	}
	defer unix.Close(dir)
	left, err := mtimeOf(dir)
	if err != nil {
		return err
	}
	if err := unix.Unlinkat(dir, anchorName, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "remove", Path: path.Join("/", a.dir, anchorName), Err: err}
	}
	if left == a.after {
		left = a.before
	}
	setMtime(dir, left)
	t.removeLinks(path.Join("/", a.dir, anchorName))
	return nil
}

// removeLinks removes the links to a file, and the links to these.
func (t *Trust) removeLinks(target string) {
	dir, ok := t.openDir(linkDir)
	if !ok {
		return
	}
	defer unix.Close(dir)
	left, err := mtimeOf(dir)
	if err != nil {
		return
	}
	entries, err := os.ReadDir(procPath(dir))
	if err != nil {
		return
	}
	gone := map[string]bool{target: true}
	for range 2 {
		for _, e := range entries {
			if e.Type()&os.ModeSymlink == 0 {
				continue
			}
			buf := make([]byte, unix.PathMax)
			n, err := unix.Readlinkat(dir, e.Name(), buf)
			if err == nil && gone[string(buf[:n])] && unix.Unlinkat(dir, e.Name(), 0) == nil {
				gone[e.Name()] = true
			}
		}
	}
	setMtime(dir, left)
}

// openDir opens a directory that can be reached without links.
func (t *Trust) openDir(rel string) (fd int, ok bool) {
	fd, err := openat2(int(t.root.Fd()), rel, unix.O_RDONLY|unix.O_DIRECTORY, inRoot)
	return fd, err == nil
}

func mtimeOf(fd int) (unix.Timespec, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return st.Mtim, os.NewSyscallError("fstat", err)
}

func setMtime(fd int, mtime unix.Timespec) {
	// Where that is not possible a directory has another time.
	_ = unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}, 0)
}
