package buildkit

import (
	"hash"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	fstypes "github.com/tonistiigi/fsutil/types"
)

// Kinds of entries in a tar archive.
const (
	tarFile    = '0'
	tarSymlink = '2'
	tarChar    = '3'
	tarBlock   = '4'
	tarDir     = '5'
	tarFIFO    = '6'
)

// header writes the fields of a tar header, each with its name before it, that count: the
// tarsum of Docker's first builder, without a time and without the name of the file. BuildKit
// takes the numbers of devices in images to be zero, and so does not tell devices apart; here
// they count, and what holds a device is not found.
func header(h hash.Hash, st *fstypes.Stat) {
	mode := fs.FileMode(st.Mode)
	kind, size, link := byte(tarFile), int64(0), ""
	switch {
	case mode.IsRegular(), mode&(fs.ModeSocket|fs.ModeIrregular) != 0:
		size = st.Size
	case mode.IsDir():
		kind = tarDir
	case mode&fs.ModeSymlink != 0:
		kind, link, mode = tarSymlink, st.Linkname, mode|0o777
	case mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice != 0:
		kind = tarChar
	case mode&fs.ModeDevice != 0:
		kind = tarBlock
	case mode&fs.ModeNamedPipe != 0:
		kind = tarFIFO
	}
	put(h,
		"name", "",
		"mode", strconv.FormatInt(int64(permissions(mode)), 10),
		"uid", strconv.FormatUint(uint64(st.Uid), 10),
		"gid", strconv.FormatUint(uint64(st.Gid), 10),
		"size", strconv.FormatInt(size, 10),
		"typeflag", string(rune(kind)),
		"linkname", link,
		"uname", "",
		"gname", "",
		"devmajor", strconv.FormatInt(st.Devmajor, 10),
		"devminor", strconv.FormatInt(st.Devminor, 10),
	)
	var keys []string
	for k := range st.Xattrs {
		if k == "security.capability" || !strings.HasPrefix(k, "security.") && !strings.HasPrefix(k, "system.") {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		put(h, k, string(st.Xattrs[k]))
	}
}

// permissions are the mode bits as tar has them.
func permissions(m fs.FileMode) uint32 {
	p := uint32(m.Perm())
	if m&fs.ModeSetuid != 0 {
		p |= 0o4000
	}
	if m&fs.ModeSetgid != 0 {
		p |= 0o2000
	}
	if m&fs.ModeSticky != 0 {
		p |= 0o1000
	}
	return p
}
