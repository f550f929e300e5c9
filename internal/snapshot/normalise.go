package snapshot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A normaliser makes of the upper directory of an overlay what its layer changes, said so
// that it holds on any other layers too:
//
//   - The kernel marks a directory opaque that was made anew, so that nothing beneath is
//     seen. Only what was really beneath is removed by the layer: a Merge with another one
//     shows what that has in the directory.
//   - The kernel copies up what is touched, such as the directory of a mount point or a
//     file that was renamed and renamed back. What is as it was is not part of the layer,
//     as it is not in the layers of other builders.
type normaliser struct {
	lower  *View
	opaque string // name of the attribute
	began  time.Time
}

// clockGrain is how much the time of a file may lie before that of the clock.
const clockGrain = 20 * time.Millisecond

func (n *normaliser) run(upper string) error {
	if _, err := n.walk(upper, "", true); err != nil {
		return fmt.Errorf("finish layer: %w", err)
	}
	return nil
}

// walk normalises a directory; over says that there is a directory of this name beneath.
// It returns how many entries are left.
func (n *normaliser) walk(dir, rel string, over bool) (left int, err error) {
	entries, err := readDir(dir)
	if err != nil {
		return 0, err
	}
	left = len(entries)
	for _, e := range entries {
		path, sub := filepath.Join(dir, e.Name()), filepath.Join(rel, e.Name())
		var host string
		var below *unix.Stat_t
		if over {
			host, below, err = n.lower.find("lstat", sub)
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			if err != nil {
				return 0, err
			}
		}
		keep := true
		if e.IsDir() {
			keep, err = n.directory(path, sub, host, below)
		} else if below != nil && e.Type().IsRegular() {
			keep, err = n.changed(path, host, below)
		}
		if err != nil {
			return 0, err
		}
		if keep {
			continue
		}
		if err := os.Remove(path); err != nil {
			return 0, err
		}
		left--
	}
	return left, nil
}

// directory normalises a directory that stands over host, which is none if below is nil,
// and says whether it is a change.
func (n *normaliser) directory(path, rel, host string, below *unix.Stat_t) (keep bool, err error) {
	over := below != nil && isDirMode(below.Mode)
	if isOpaque(path, n.opaque) {
		if over {
			if err := n.uncover(path, rel); err != nil {
				return true, err
			}
		}
		if err := unix.Lremovexattr(path, n.opaque); err != nil {
			return true, &os.PathError{Op: "removexattr", Path: path, Err: err}
		}
	}
	left, err := n.walk(path, rel, over)
	if err != nil || left > 0 || !over {
		return true, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return true, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	// A directory in which something was for a while has the time of that, which does not
	// count. Another time was set on purpose.
	if time.Unix(st.Mtim.Unix()).After(n.began.Add(-clockGrain)) {
		st.Mtim = below.Mtim
	}
	same, err := sameAttributes(path, host, &st, below)
	return !same, err
}

// uncover says of each name that an opaque directory hides that it is removed.
func (n *normaliser) uncover(path, rel string) error {
	names, err := n.lower.ReadDir(rel)
	if err != nil {
		return err
	}
	var times unix.Stat_t
	if err := unix.Lstat(path, &times); err != nil {
		return &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	for _, name := range names {
		child := filepath.Join(path, name)
		var st unix.Stat_t
		switch err := unix.Lstat(child, &st); {
		case err == unix.ENOENT:
			if err := unix.Mknod(child, unix.S_IFCHR, 0); err != nil {
				return &os.PathError{Op: "whiteout", Path: child, Err: err}
			}
		case err != nil:
			return &os.PathError{Op: "lstat", Path: child, Err: err}
		case isDirMode(st.Mode):
			// Whatever is beneath this one is hidden as well.
			if err := unix.Lsetxattr(child, n.opaque, []byte{'y'}, 0); err != nil {
				return &os.PathError{Op: "setxattr", Path: child, Err: err}
			}
		}
	}
	return setTimes(path, &times)
}

// changed says whether a file differs from the one beneath. One of several links is kept:
// it belongs to the others.
func (n *normaliser) changed(path, host string, below *unix.Stat_t) (bool, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return true, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	if st.Nlink > 1 || st.Mode != below.Mode || st.Size != below.Size || st.Mtim != below.Mtim {
		return true, nil
	}
	same, err := sameFile(path, host, &st, below)
	return !same, err
}
