package local

import (
	"encoding/binary"
	"io/fs"
	"syscall"
	"time"
)

// StatXattr is the name of the pseudo attribute by which a client tells which version of
// a file it has. The value is opaque to the daemon, which only compares it; it is not
// written to the tree and not part of any digest.
const StatXattr = "dbuild.stat"

// racy is how old a change must be to be told by its time from a later one. Kernels stamp
// files with the time of the last tick, 10 ms at the slowest usual rate.
const racy = 25 * time.Millisecond

// ClientStat returns the value of StatXattr for a file: device, inode, change time and
// size. It returns nil for what is not a regular file, and for a file changed so shortly
// before now that another change might not show; now must have been read before fi was.
//
// Writes through a memory mapping show only when the kernel writes the page back.
func ClientStat(fi fs.FileInfo, now time.Time) []byte {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() {
		return nil
	}
	changed := time.Unix(st.Ctim.Unix())
	if now.Sub(changed) < racy {
		return nil
	}
	b := make([]byte, 0, 40)
	b = binary.LittleEndian.AppendUint64(b, uint64(st.Dev))
	b = binary.LittleEndian.AppendUint64(b, st.Ino)
	b = binary.LittleEndian.AppendUint64(b, uint64(changed.UnixNano()))
	return binary.LittleEndian.AppendUint64(b, uint64(st.Size))
}
