package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	securejoin "github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"
)

// A Target is where something will be mounted.
type Target struct {
	Path string // in the container
	Dir  bool   // else a file
	Keep bool   // what is made for it stays
}

// Stubs are the mount points that were made for a run.
type Stubs struct {
	root      *os.File
	recursive bool
	made      []stub
	parents   map[string]*parent // by path in the root
}

// A stub is an empty directory or file made as a mount point, or a directory made to
// hold one.
type stub struct {
	dir, name string // of the file system, without links
	isDir     bool
	mountable bool // a mount point itself
	kept      bool
	inode     uint64
}

// A parent is a directory that was there before and got stubs.
type parent struct {
	before unix.Timespec // its time of change before
	after  unix.Timespec // after the last stub was made in it
}

const (
	inRoot  = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV
	dirMode = 0o755
)

// MakeStubs makes the mount points that are missing in a root file system in which
// nothing runs yet. Targets below another target are left to the runtime: they will not
// be in this file system. Remove must be called in the end; if recursive, it also removes
// the directories that had to be made to hold mount points.
func MakeStubs(rootfs string, targets []Target, recursive bool) (*Stubs, error) {
	root, err := os.OpenFile(rootfs, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	s := &Stubs{root: root, recursive: recursive, parents: make(map[string]*parent)}
	var mounted []string
	for _, t := range targets {
		full, err := securejoin.SecureJoin(rootfs, t.Path)
		if err != nil {
			s.Remove()
			return nil, fmt.Errorf("mount point %s: %w", t.Path, err)
		}
		rel, err := filepath.Rel(rootfs, full)
		if err != nil || rel == "." || beneathAny(rel, mounted) {
			continue
		}
		mounted = append(mounted, rel)
		if err := s.make(rel, t); err != nil {
			s.Remove()
			return nil, fmt.Errorf("mount point %s: %w", t.Path, err)
		}
	}
	return s, nil
}

func beneathAny(name string, dirs []string) bool {
	for _, d := range dirs {
		if strings.HasPrefix(name, d+"/") {
			return true
		}
	}
	return false
}

// make makes one mount point and the directories above it. What exists is not looked at
// further: the runtime says what is wrong with it.
func (s *Stubs) make(rel string, t Target) error {
	dir := "."
	fd, err := unix.FcntlInt(s.root.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	names := strings.Split(rel, "/")
	for i, name := range names {
		last := i == len(names)-1
		if err := s.makeOne(fd, dir, stub{name: name, isDir: t.Dir || !last, mountable: last, kept: last && t.Keep}); err != nil {
			return err
		}
		if last {
			return nil
		}
		next, err := openat2(fd, name, unix.O_RDONLY|unix.O_DIRECTORY, inRoot)
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if err != nil {
			return err
		}
		_ = unix.Close(fd)
		fd, dir = next, path.Join(dir, name)
	}
	return nil
}

func (s *Stubs) makeOne(fd int, dir string, m stub) error {
	name := m.name
	var st unix.Stat_t
	err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if !errors.Is(err, unix.ENOENT) {
		return err
	}
	if err := s.note(fd, dir); err != nil {
		return err
	}
	if m.isDir {
		err = unix.Mkdirat(fd, name, dirMode)
	} else {
		var f int
		if f, err = unix.Openat(fd, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644); err == nil {
			err = unix.Close(f)
		}
	}
	if errors.Is(err, unix.EROFS) || errors.Is(err, unix.EEXIST) {
		return nil // then it has to do without, or somebody else was quicker
	}
	if err != nil {
		return err
	}
	if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	m.dir, m.inode = dir, st.Ino
	s.made = append(s.made, m)
	return s.noted(fd, dir)
}

// note remembers the time of a directory that is about to get a stub, noted the time
// after it got one.
func (s *Stubs) note(fd int, dir string) error {
	if s.parents[dir] != nil || s.isMade(dir) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	s.parents[dir] = &parent{before: st.Mtim, after: st.Mtim}
	return nil
}

func (s *Stubs) noted(fd int, dir string) error {
	p := s.parents[dir]
	if p == nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	p.after = st.Mtim
	return nil
}

func (s *Stubs) isMade(dir string) bool {
	for _, m := range s.made {
		if path.Join(m.dir, m.name) == dir {
			return true
		}
	}
	return false
}

// Remove removes the stubs that are as they were made: empty, and the same inode at the
// same place, reached without links. Directories get back the time of change they had,
// unless something else changed in them. Whatever cannot be removed safely stays.
func (s *Stubs) Remove() {
	defer s.root.Close()
	// The times that the step left, before the removals below change them.
	left := make(map[string]unix.Timespec)
	for dir := range s.parents {
		if fd, ok := s.open(dir); ok {
			var st unix.Stat_t
			if unix.Fstat(fd, &st) == nil {
				left[dir] = st.Mtim
			}
			_ = unix.Close(fd)
		}
	}
	touched := make(map[string]bool)
	for i := len(s.made) - 1; i >= 0; i-- {
		m := s.made[i]
		if !m.kept && (m.mountable || s.recursive) && s.removeOne(m) {
			touched[m.dir] = true
		}
	}
	for dir, p := range s.parents {
		mtime, ok := left[dir]
		if !ok || !touched[dir] {
			continue
		}
		if mtime == p.after {
			mtime = p.before
		}
		if fd, ok := s.open(dir); ok {
			_ = unix.UtimesNanoAt(fd, ".", []unix.Timespec{{Nsec: unix.UTIME_OMIT}, mtime}, 0)
			_ = unix.Close(fd)
		}
	}
}

func (s *Stubs) removeOne(m stub) bool {
	fd, ok := s.open(m.dir)
	if !ok {
		return false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstatat(fd, m.name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil || st.Ino != m.inode {
		return false
	}
	if m.isDir {
		return st.Mode&unix.S_IFMT == unix.S_IFDIR && unix.Unlinkat(fd, m.name, unix.AT_REMOVEDIR) == nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0 {
		return false
	}
	return unix.Unlinkat(fd, m.name, 0) == nil
}

// open opens a directory of the root file system if it can be reached without links.
func (s *Stubs) open(dir string) (int, bool) {
	fd, err := openat2(int(s.root.Fd()), dir, unix.O_RDONLY|unix.O_DIRECTORY, inRoot)
	return fd, err == nil
}
