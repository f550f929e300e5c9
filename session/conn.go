package session

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
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
	in     controlapi.BytesMessage
	rest   []byte // of in.Data, not read yet

	writeMu sync.Mutex
	out     controlapi.BytesMessage
}

func newConn(s Stream, stop func()) net.Conn { return &conn{stream: s, stop: stop} }

func (c *conn) Read(b []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for len(c.rest) == 0 {
		c.in.Data = c.in.Data[:0]
		if err := c.stream.RecvMsg(&c.in); err != nil {
			if !errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		c.rest = c.in.Data
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
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
