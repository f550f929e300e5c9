package client

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// maxMessage is the size of a message that builders accept and send, in bytes.
const maxMessage = 16 << 20

// Dial makes a connection of the standard input and output of a process.
func Dial(in io.ReadCloser, out io.WriteCloser) (*grpc.ClientConn, error) {
	conns := make(chan net.Conn, 1)
	conns <- stdio{in, out}
	return grpc.NewClient("passthrough:///builder",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			select {
			case c := <-conns:
				return c, nil
			default:
				return nil, errors.New("the builder has closed the connection")
			}
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	)
}

// stdio is a connection without addresses and deadlines.
type stdio struct {
	in  io.ReadCloser
	out io.WriteCloser
}

func (s stdio) Read(p []byte) (int, error)     { return s.in.Read(p) }
func (s stdio) Write(p []byte) (int, error)    { return s.out.Write(p) }
func (s stdio) Close() error                   { return errors.Join(s.out.Close(), s.in.Close()) }
func (stdio) LocalAddr() net.Addr              { return addr{} }
func (stdio) RemoteAddr() net.Addr             { return addr{} }
func (stdio) SetDeadline(time.Time) error      { return nil }
func (stdio) SetReadDeadline(time.Time) error  { return nil }
func (stdio) SetWriteDeadline(time.Time) error { return nil }

type addr struct{}

func (addr) Network() string { return "stdio" }
func (addr) String() string  { return "stdio" }
