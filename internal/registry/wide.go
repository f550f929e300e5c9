package registry

import (
	"context"
	"io"
	"net"
	"sync"
)

// copySize is how much of a blob is taken from one connection and given to another at once,
// in bytes. A piece that takes longer than Config.StallTimeout to send is a stall.
const copySize = 128 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copySize]byte) }}

// A wideConn sends bodies in large pieces: net/http would take 32 KB at a time, each of which
// wakes the registry up.
type wideConn struct{ *net.TCPConn }

// ReadFrom sends what r has.
func (c wideConn) ReadFrom(r io.Reader) (int64, error) {
	buf := copyBuffers.Get().(*[copySize]byte)
	defer copyBuffers.Put(buf)
	return io.CopyBuffer(struct{ io.Writer }{c.TCPConn}, struct{ io.Reader }{r}, buf[:])
}

// A dialFunc is http.Transport.DialContext.
type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// wide makes wideConns of the connections of dial.
func wide(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := dial(ctx, network, addr)
		if tcp, ok := c.(*net.TCPConn); ok && err == nil {
			return wideConn{tcp}, nil
		}
		return c, err
	}
}
