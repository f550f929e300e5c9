package local

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc/mem"
)

// However a packet is cut into buffers, it is decoded to the same.
func TestPacketInPieces(t *testing.T) {
	for _, want := range []*types.Packet{
		{Type: types.PACKET_DATA, ID: 300, Data: bytes.Repeat([]byte("0123456789"), 10)},
		{Type: types.PACKET_DATA, Data: []byte("x")},
		{Type: types.PACKET_DATA, ID: 1},
		{Type: types.PACKET_STAT, Stat: &types.Stat{Path: "a/b", Mode: 0o644, Size: 1 << 40, ModTime: -5, Uid: 1, Gid: 2, Linkname: "c",
			Devmajor: 3, Devminor: 4, Xattrs: map[string][]byte{"user.x": []byte("y")}}, Data: []byte("and content")},
		{Type: types.PACKET_ERR, Data: []byte("message")},
	} {
		b, err := want.Marshal()
		must(t, err)
		for range 200 {
			var cuts []int
			for range rand.IntN(5) {
				cuts = append(cuts, rand.IntN(len(b)+1))
			}
			slices.Sort(cuts)
			var data mem.BufferSlice
			at := 0
			for _, c := range append(cuts, len(b)) {
				data = append(data, mem.SliceBuffer(b[at:c]))
				at = c
			}
			var p packet
			must(t, p.Decode(data))
			if p.kind != want.Type || p.id != want.ID || p.text() != string(want.Data) || (p.stat != nil) != (want.Stat != nil) || p.size != len(b) {
				t.Fatalf("cut at %v: got %+v, want %v", cuts, p, want)
			}
			if s, w := p.stat, want.Stat; s != nil && (string(s.path) != w.Path || uint32(s.mode) != w.Mode || s.size != w.Size || s.mtime != w.ModTime ||
				s.uid != w.Uid || s.gid != w.Gid || string(s.link) != w.Linkname || s.devmajor != w.Devmajor || s.devminor != w.Devminor ||
				len(s.xattrs) != 1 || string(s.xattrs[0].name) != "user.x" || string(s.xattrs[0].value) != "y") {
				t.Fatalf("cut at %v: got %+v, want %v", cuts, s, w)
			}
		}
	}
}

func FuzzPacket(f *testing.F) {
	b, err := (&types.Packet{Type: types.PACKET_DATA, ID: 300, Data: []byte("0123456789")}).Marshal()
	must(f, err)
	f.Add(b, 3)
	b, err = (&types.Packet{Stat: &types.Stat{Path: "a/b", Xattrs: map[string][]byte{"user.x": []byte("y")}}}).Marshal()
	must(f, err)
	f.Add(b, 5)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		cut = min(max(cut, 0), len(b))
		var whole, parts packet
		err1 := whole.Decode(mem.BufferSlice{mem.SliceBuffer(b)})
		err2 := parts.Decode(mem.BufferSlice{mem.SliceBuffer(b[:cut]), mem.SliceBuffer(b[cut:])})
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("whole: %v, in parts: %v", err1, err2)
		}
		if err1 == nil && (whole.kind != parts.kind || whole.id != parts.id || whole.text() != parts.text()) {
			t.Fatalf("whole: %+v, in parts: %+v", whole, parts)
		}
	})
}

func FuzzIndex(f *testing.F) {
	x := &index{entries: []entry{{path: "a", kind: kindDir}, {path: "a/b", kind: kindFile, size: 3, stat: "s"}}}
	b := x.encode("boot")
	f.Add(b[:len(b)-4])
	f.Fuzz(func(t *testing.T, b []byte) {
		b = binary.LittleEndian.AppendUint32(bytes.Clone(b), crc32.Checksum(b, crcTable))
		x, boot, err := decodeIndex(string(b))
		if err != nil {
			return
		}
		y, again, err := decodeIndex(string(x.encode(boot)))
		if err != nil || again != boot || y.root != x.root || !slices.Equal(x.entries, y.entries) {
			t.Fatalf("encoding and decoding changed an index: %v", err)
		}
	})
}

func TestOrder(t *testing.T) {
	for _, c := range []struct {
		list string // a directory ends with a slash
		bad  bool
	}{
		{"a b c", false},
		{"a/ a/b a-b ab", false},
		{"a/ a/b/ a/b/c a/c b", false},
		{"b a", true},
		{"a a", true},
		{"a/ a-b a/b", true},
		{"a/b", true},
		{"a a/b", true},
		{"a/ b a/c", true},
		{"../x", true},
		{"a/ a/../b", true},
		{"/a", true},
		{"./a", true},
		{"a/ a//b", true},
		{".", true},
		{"..", true},
		{"a\x00b", true},
		{"..a a..", false},
	} {
		var o order
		var err error
		for _, p := range bytes.Fields([]byte(c.list)) {
			path, dir := bytes.CutSuffix(p, []byte("/"))
			if err == nil {
				err = o.next(string(path), dir)
			}
		}
		if (err != nil) != c.bad {
			t.Errorf("%q: %v", c.list, err)
		}
	}
}
