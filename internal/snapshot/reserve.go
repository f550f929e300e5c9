package snapshot

import (
	"math"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// reserveSize is how much of the disk a file sets aside, in bytes: when nothing is free,
// not even the rows of what is removed could be written.
const reserveSize = 2 << 20

func (s *Store) reserve() string { return filepath.Join(s.root, "reserve") }

// free is how much room the disk has; very much if it does not say.
func (s *Store) free() int64 {
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return math.MaxInt64
	}
	return int64(st.Bavail) * st.Bsize
}

// useReserve gives the reserve up if the disk is full.
func (s *Store) useReserve() {
	if s.free() < reserveSize {
		_ = os.Remove(s.reserve())
	}
}

// keepReserve sets the reserve aside, as much of it as there is room for. Without one
// everything works but a removal from a full disk.
func (s *Store) keepReserve() {
	have := int64(0)
	if st, err := os.Lstat(s.reserve()); err == nil {
		have = st.Size()
	}
	want := min(reserveSize, have+s.free())
	if want <= have {
		return
	}
	f, err := os.OpenFile(s.reserve(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, want)
	if err1 := f.Close(); err != nil || err1 != nil {
		_ = os.Remove(s.reserve())
	}
}
