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

// ClientStat returns the value of StatXattr for a file. It returns nil for what is not a
// regular file; else see AppendClientStat. now must have been read before fi was.
func ClientStat(fi fs.FileInfo, now time.Time) []byte {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.Mode().IsRegular() {
		return nil
	}
	return AppendClientStat(nil, uint64(st.Dev), st.Ino, syscall.TimespecToNsec(st.Ctim), st.Size, now.UnixNano())
}

// AppendClientStat appends the value of StatXattr for a regular file to b: device, inode,
// change time and size. It appends nothing for a file changed so shortly before now that
// another change might not show; now must have been read before the rest was. Times are
// nanoseconds since 1970.
//
// Writes through a memory mapping show only when the kernel writes the page back.
func AppendClientStat(b []byte, dev, ino uint64, changed, size, now int64) []byte {
	if now-changed < int64(racy) {
		return b
	}
	b = binary.LittleEndian.AppendUint64(b, dev)
	b = binary.LittleEndian.AppendUint64(b, ino)
	b = binary.LittleEndian.AppendUint64(b, uint64(changed))
	return binary.LittleEndian.AppendUint64(b, uint64(size))
}
