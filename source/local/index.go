package local

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// An index says what is in a tree.
type index struct {
	entries []entry // sorted by compare
	root    [32]byte
}

const indexMagic = "dbuild local index 1\n"

var crcTable = crc32.MakeTable(crc32.Castagnoli)

// bootID names the time since the machine was started: what was written before is not
// certain to have reached the disk.
var bootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
})

// encode returns the index as bytes: magic, boot id, root sum, entries, checksum.
func (x *index) encode(boot string) []byte {
	n := 128
	for i := range x.entries {
		e := &x.entries[i]
		n += len(e.path) + len(e.link) + len(e.xattrs) + len(e.stat) + 80
	}
	b := append(make([]byte, 0, n), indexMagic...)
	b = appendString(b, boot)
	b = append(b, x.root[:]...)
	b = binary.AppendUvarint(b, uint64(len(x.entries)))
	for i := range x.entries {
		e := &x.entries[i]
		b = append(b, byte(e.kind))
		b = appendString(b, e.path)
		b = appendString(b, e.link)
		b = appendString(b, e.xattrs)
		b = appendString(b, e.stat)
		b = binary.AppendUvarint(b, uint64(e.size))
		b = binary.AppendVarint(b, e.mtime)
		b = binary.AppendUvarint(b, uint64(e.mode))
		b = binary.AppendUvarint(b, uint64(e.uid))
		b = binary.AppendUvarint(b, uint64(e.gid))
		if e.kind == kindFile || e.kind == kindHardlink {
			b = append(b, e.sum[:]...)
		}
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crcTable))
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

var errBadIndex = errors.New("the index of a synced directory is damaged")

// decodeIndex reads what encode wrote. The entries refer to the memory of s.
func decodeIndex(s string) (x *index, boot string, err error) {
	if len(s) < len(indexMagic)+4 || s[:len(indexMagic)] != indexMagic {
		return nil, "", errBadIndex
	}
	body, sum := s[:len(s)-4], s[len(s)-4:]
	d := decoder{s: body}
	if crc32.Checksum([]byte(body), crcTable) != binary.LittleEndian.Uint32([]byte(sum)) {
		return nil, "", errBadIndex
	}
	d.take(len(indexMagic))
	boot = d.str()
	x = &index{}
	copy(x.root[:], d.take(32))
	n := d.uint()
	if n > maxEntries {
		return nil, "", errBadIndex
	}
	x.entries = make([]entry, n)
	for i := range x.entries {
		e := &x.entries[i]
		if k := d.take(1); k != "" {
			e.kind = kind(k[0])
		}
		e.path, e.link, e.xattrs, e.stat = d.str(), d.str(), d.str(), d.str()
		e.size = int64(d.uint())
		e.mtime = d.int()
		e.mode = fs.FileMode(d.uint())
		e.uid, e.gid = uint32(d.uint()), uint32(d.uint())
		if e.kind == kindFile || e.kind == kindHardlink {
			copy(e.sum[:], d.take(32))
		}
	}
	if d.bad || d.s != "" {
		return nil, "", errBadIndex
	}
	setEnds(x.entries)
	return x, boot, nil
}

type decoder struct {
	s   string
	bad bool
}

func (d *decoder) take(n int) string {
	if n < 0 || n > len(d.s) {
		d.bad, d.s = true, ""
		return ""
	}
	v := d.s[:n]
	d.s = d.s[n:]
	return v
}

func (d *decoder) uint() uint64 {
	var v uint64
	for i := 0; i < len(d.s) && i < binary.MaxVarintLen64; i++ {
		c := d.s[i]
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			d.s = d.s[i+1:]
			return v
		}
	}
	d.bad, d.s = true, ""
	return 0
}

func (d *decoder) int() int64 {
	u := d.uint()
	return int64(u>>1) ^ -int64(u&1)
}

func (d *decoder) str() string {
	n := d.uint()
	if n > uint64(len(d.s)) {
		d.bad, d.s = true, ""
		return ""
	}
	return d.take(int(n))
}

// loadIndex reads the index of a directory, or an empty one if there is none that can be
// used. It reports whether the tree is known to be as the index says.
func loadIndex(dir string) (x *index, sure bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, "index"))
	if errors.Is(err, fs.ErrNotExist) {
		return &index{}, false, nil
	} else if err != nil {
		return nil, false, err
	}
	x, boot, err := decodeIndex(string(b))
	if err != nil {
		return &index{}, false, nil
	}
	if _, err := os.Lstat(filepath.Join(dir, "dirty")); !errors.Is(err, fs.ErrNotExist) {
		return x, false, err
	}
	return x, boot != "" && boot == bootID(), nil
}

// save writes the index beside its tree, all or nothing. It is not synced: see bootID.
func (x *index) save(dir string) error {
	name := filepath.Join(dir, "index")
	if err := os.WriteFile(name+".new", x.encode(bootID()), 0o600); err != nil {
		return fmt.Errorf("write the index of a synced directory: %w", err)
	}
	return os.Rename(name+".new", name)
}
