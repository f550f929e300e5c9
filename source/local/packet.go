package local

import (
	"fmt"
	"io/fs"

	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// A packet is a received types.Packet. Its slices point into the bytes it came as, which
// stay valid until the packet is received into again, or until keep's buffer is freed.
type packet struct {
	kind types.Packet_PacketType
	id   uint32
	data []byte
	stat *stat // nil if there is none

	buf mem.Buffer
	st  stat // what stat points to
}

// A stat is a received types.Stat.
type stat struct {
	path, link         []byte
	mode               fs.FileMode
	uid, gid           uint32
	size, mtime        int64
	devmajor, devminor int64
	xattrs             []xattr
}

// Decode implements session.SelfDecoder.
func (p *packet) Decode(data mem.BufferSlice) error {
	p.free()
	p.buf = data.MaterializeToBuffer(mem.DefaultBufferPool())
	return p.parse(p.buf.ReadOnlyData())
}

func (p *packet) free() {
	if p.buf != nil {
		p.buf.Free()
		p.buf = nil
	}
}

// keep hands the buffer that data points into over to the caller, who frees it.
func (p *packet) keep() (data []byte, buf mem.Buffer) {
	buf, p.buf = p.buf, nil
	return p.data, buf
}

// size is what the packet took on the wire.
func (p *packet) size() int { return len(p.buf.ReadOnlyData()) }

func (p *packet) parse(b []byte) error {
	p.kind, p.id, p.data, p.stat = 0, 0, nil, nil
	return fields(b, func(num protowire.Number, v uint64, raw []byte) error {
		switch num {
		case 1:
			p.kind = types.Packet_PacketType(v)
		case 2:
			xattrs := p.st.xattrs[:0]
			p.st = stat{xattrs: xattrs}
			p.stat = &p.st
			return p.st.parse(raw)
		case 3:
			p.id = uint32(v)
		case 4:
			p.data = raw
		}
		return nil
	})
}

func (s *stat) parse(b []byte) error {
	return fields(b, func(num protowire.Number, v uint64, raw []byte) error {
		switch num {
		case 1:
			s.path = raw
		case 2:
			s.mode = fs.FileMode(v)
		case 3:
			s.uid = uint32(v)
		case 4:
			s.gid = uint32(v)
		case 5:
			s.size = int64(v)
		case 6:
			s.mtime = int64(v)
		case 7:
			s.link = raw
		case 8:
			s.devmajor = int64(v)
		case 9:
			s.devminor = int64(v)
		case 10:
			var x xattr
			if err := fields(raw, func(num protowire.Number, _ uint64, raw []byte) error {
				switch num {
				case 1:
					x.name = raw
				case 2:
					x.value = raw
				}
				return nil
			}); err != nil {
				return err
			}
			s.xattrs = append(s.xattrs, x)
		}
		return nil
	})
}

// fields calls fn for each field of a message that is a varint or bytes.
func fields(b []byte, fn func(num protowire.Number, v uint64, raw []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errBadPacket(n)
		}
		b = b[n:]
		var v uint64
		var raw []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			raw, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
			num = 0
		}
		if n < 0 {
			return errBadPacket(n)
		}
		b = b[n:]
		if num == 0 {
			continue
		}
		if err := fn(num, v, raw); err != nil {
			return err
		}
	}
	return nil
}

func errBadPacket(n int) error {
	return fmt.Errorf("client sent a broken packet: %w", protowire.ParseError(n))
}
