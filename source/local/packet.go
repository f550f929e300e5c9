package local

import (
	"bytes"
	"fmt"
	"io/fs"

	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// A packet is a received types.Packet. Its slices point into the bytes it came as, which
// stay valid until the packet is received into again; those of data until its buffers are
// freed, if keep handed them over.
type packet struct {
	kind types.Packet_PacketType
	id   uint32
	data []piece
	stat *stat // nil if there is none
	size int   // bytes on the wire

	bufs mem.BufferSlice
	st   stat // what stat points to
}

// A piece is content and the buffer it is in.
type piece struct {
	data []byte
	buf  mem.Buffer
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

// Decode implements session.SelfDecoder. Content, which comes in several buffers, is left
// where it is.
func (p *packet) Decode(data mem.BufferSlice) error {
	p.free()
	p.kind, p.id, p.data, p.stat, p.size = 0, 0, p.data[:0], nil, data.Len()
	if len(data) > 1 {
		if ok, err := p.split(data); ok || err != nil {
			return err
		}
	}
	p.bufs = append(p.bufs, data.MaterializeToBuffer(mem.NopBufferPool{}))
	content, err := p.parse(p.bufs[0].ReadOnlyData())
	if len(content) > 0 {
		p.data = append(p.data, piece{content, p.bufs[0]})
	}
	return err
}

// view decodes a packet from b, which it points to afterwards; content is copied.
func (p *packet) view(b []byte) error {
	p.free()
	p.kind, p.id, p.data, p.stat, p.size = 0, 0, p.data[:0], nil, len(b)
	content, err := p.parse(b)
	if len(content) > 0 {
		content = bytes.Clone(content)
		p.data = append(p.data, piece{content, mem.SliceBuffer(content)})
	}
	return err
}

// split decodes a packet that ends with content, if its other fields are all in the first
// buffer. If it is of another form split reports false.
func (p *packet) split(data mem.BufferSlice) (bool, error) {
	first := data[0].ReadOnlyData()
	rest := first
	for len(rest) > 0 {
		num, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return false, nil
		}
		if num == 4 && typ == protowire.BytesType {
			size, w := protowire.ConsumeVarint(rest[n:])
			start := len(first) - len(rest) + n + w
			if w < 0 || size != uint64(p.size-start) {
				return false, nil
			}
			if _, err := p.parse(first[:start-n-w]); err != nil {
				return false, err
			}
			for i, b := range data {
				b.Ref()
				p.bufs = append(p.bufs, b)
				content := b.ReadOnlyData()
				if i == 0 {
					content = content[start:]
				}
				if len(content) > 0 {
					p.data = append(p.data, piece{content, b})
				}
			}
			return true, nil
		}
		m := protowire.ConsumeFieldValue(num, typ, rest[n:])
		if m < 0 {
			return false, nil
		}
		rest = rest[n+m:]
	}
	return false, nil
}

func (p *packet) free() {
	for _, b := range p.bufs {
		b.Free()
	}
	p.bufs = p.bufs[:0]
}

// text returns the content as a string.
func (p *packet) text() string {
	var b []byte
	for _, d := range p.data {
		b = append(b, d.data...)
	}
	return string(b)
}

// keep hands the buffers of data over to the caller, who frees them.
func (p *packet) keep() []piece {
	for _, d := range p.data {
		d.buf.Ref()
	}
	p.free()
	return p.data
}

// parse decodes all but the content, which it returns.
func (p *packet) parse(b []byte) (content []byte, err error) {
	err = fields(b, func(num protowire.Number, v uint64, raw []byte) error {
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
			content = raw
		}
		return nil
	})
	return content, err
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
