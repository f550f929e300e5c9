package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/solver"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

// A CacheDir is a directory of this machine that a user lends to a build, to hold what a
// cache mount would hold (dbuild build --cache-mount).
type CacheDir struct {
	Path string // absolute, without symbolic links
	UID  int    // of the user, who must be root or own the directory
}

// A CacheDirLender is a Client that may lend directories for cache mounts, by their id.
type CacheDirLender interface {
	Client
	CacheDir(id string) (CacheDir, bool)
}

// cacheDirPrefix begins the names of what cache directories are mounted on.
const cacheDirPrefix = "cachedir-"

// cacheDir is the directory that a build behind d lends for a cache mount.
func cacheDir(d solver.Demand, id string) (CacheDir, bool) {
	if d == nil {
		return CacheDir{}, false // a container of a frontend
	}
	for j := range d.Jobs() {
		if l, ok := j.Value().(CacheDirLender); ok {
			if dir, ok := l.CacheDir(id); ok {
				return dir, true
			}
		}
	}
	return CacheDir{}, false
}

// Open opens the directory, which is what decides whether the user may lend it: its path
// may lead elsewhere by the time it is mounted.
func (c CacheDir) Open() (*os.File, error) {
	how := &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, c.Path, how)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("cache mount %s: there is no such directory on the daemon's machine", c.Path))
	case err != nil:
		return nil, fmt.Errorf("cache mount %s: %w", c.Path, err)
	}
	f := os.NewFile(uintptr(fd), c.Path)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		f.Close()
		return nil, err
	}
	if c.UID != 0 && int(st.Uid) != c.UID {
		f.Close()
		return nil, errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("cache mount %s: the directory belongs to another user", c.Path))
	}
	return f, nil
}

// lockInterval is how often it is tried to lock a directory that somebody else uses.
const lockInterval = 50 * time.Millisecond

// lock waits until the directory can be used: by several at once only if all of them
// share it, in whatever daemon they are.
func lock(ctx context.Context, f *os.File, shared bool) error {
	how := unix.LOCK_EX
	if shared {
		how = unix.LOCK_SH
	}
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-time.After(lockInterval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lent mounts a directory of the user for a cache mount.
func (m *mounting) lent(ctx context.Context, dir CacheDir, sharing pb.CacheSharingOpt) (string, error) {
	f, err := dir.Open()
	if err != nil {
		return "", err
	}
	m.undo = append(m.undo, f.Close) // unlocks it
	line := m.access.Log.Track("locking " + dir.Path)
	if err := lock(ctx, f, sharing == pb.CacheSharingOpt_SHARED); err != nil {
		return "", err
	}
	line.Done()
	at := filepath.Join(m.w.Root, cacheDirPrefix+newID())
	if err := os.Mkdir(at, 0o700); err != nil {
		return "", err
	}
	m.undo = append(m.undo, func() error { return os.Remove(at) })
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), at, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("cache mount %s: %w", dir.Path, err)
	}
	m.undo = append(m.undo, func() error { return unix.Unmount(at, unix.MNT_DETACH) })
	return at, nil
}

// RemoveCacheDir removes what a daemon that was killed has left of a mounted directory, if
// path is that: never what is in the directory, which is the user's.
func RemoveCacheDir(path string) (is bool, err error) {
	if !strings.HasPrefix(filepath.Base(path), cacheDirPrefix) {
		return false, nil
	}
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return true, err
	}
	return true, os.Remove(path)
}
