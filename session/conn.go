package session

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// A Stream is the part of controlapi.Control_SessionServer that carries a session: a
// stream of controlapi.BytesMessage.
type Stream interface {
	Context() context.Context
	SendMsg(m any) error
	RecvMsg(m any) error
}

// conn makes a byte connection of a message stream. Closing it calls stop; the stream
// itself ends when the handler of the RPC returns.
type conn struct {
	stream Stream
	stop   func()

	readMu sync.Mutex
	in     bytesIn

	writeMu sync.Mutex
	out     controlapi.BytesMessage
}

func newConn(s Stream, stop func()) net.Conn { return &conn{stream: s, stop: stop} }

func (c *conn) Read(b []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for {
		if n := c.in.read(b); n > 0 || len(b) == 0 {
			return n, nil
		}
		c.in.Data = c.in.Data[:0]
		if err := c.stream.RecvMsg(&c.in); err != nil {
			if !errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		c.in.rest = c.in.Data
	}
}

// A bytesIn is a received message. From Codec it takes the buffers as they are; another
// codec fills in the BytesMessage.
type bytesIn struct {
	controlapi.BytesMessage
	rest []byte // of Data, not read yet
	bufs mem.BufferSlice
	off  int // bytes of bufs[0] that were read
}

// Decode implements SelfDecoder.
func (m *bytesIn) Decode(data mem.BufferSlice) error {
	if len(data) == 0 {
		return nil
	}
	// The only field starts in the first buffer and takes all that follows.
	first := data[0].ReadOnlyData()
	num, typ, n := protowire.ConsumeTag(first)
	if n > 0 && num == 1 && typ == protowire.BytesType {
		size, w := protowire.ConsumeVarint(first[n:])
		if w > 0 && size == uint64(data.Len()-n-w) {
			data.Ref()
			m.bufs, m.off = append(m.bufs[:0], data...), n+w
			return nil
		}
	}
	buf := data.MaterializeToBuffer(mem.NopBufferPool{})
	defer buf.Free()
	return m.UnmarshalVT(buf.ReadOnlyData())
}

// read reads what is left of the message.
func (m *bytesIn) read(b []byte) int {
	n := copy(b, m.rest)
	m.rest = m.rest[n:]
	for n < len(b) && len(m.bufs) > 0 {
		data := m.bufs[0].ReadOnlyData()[m.off:]
		k := copy(b[n:], data)
		n, m.off = n+k, m.off+k
		if k == len(data) {
			m.bufs[0].Free()
			m.bufs, m.off = m.bufs[1:], 0
		}
	}
	return n
}

func (c *conn) Write(b []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.out.Data = b
	err := c.stream.SendMsg(&c.out)
	c.out.Data = nil
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (c *conn) Close() error {
	c.stop()
	return nil
}

type addr struct{}

func (addr) Network() string { return "grpc" }
func (addr) String() string  { return "session" }

func (c *conn) LocalAddr() net.Addr              { return addr{} }
func (c *conn) RemoteAddr() net.Addr             { return addr{} }
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }
