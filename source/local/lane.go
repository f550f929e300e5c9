package local

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/dbuild/dbuild/session"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// A lane is the Stream of a transfer with a client of ours; package session describes it.
type lane struct {
	conn net.Conn
	in   *bufio.Reader
	last int    // bytes of in that the last packet points to
	out  []byte // not sent yet
}

// openLane asks for a directory on conn, which it closes when ctx ends.
func openLane(ctx context.Context, conn net.Conn, req Request) (Stream, error) {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	fail := func(err error) (Stream, error) {
		if stop() {
			conn.Close()
		}
		return nil, err
	}
	b, err := session.AppendFrame(nil, session.LaneRequest{
		Name: req.Name, Include: req.Include, Exclude: req.Exclude, Follow: req.FollowPaths,
	})
	if err != nil {
		return fail(err)
	}
	if _, err := conn.Write(b); err != nil {
		return fail(err)
	}
	l := &lane{conn: conn, in: bufio.NewReaderSize(conn, 64<<10)}
	var reply session.LaneReply
	switch err := session.ReadFrame(l.in, &reply); {
	case err != nil:
		return fail(fmt.Errorf("the client does not answer: %w", err))
	case reply.Missing:
		return fail(status.Error(codes.NotFound, reply.Error))
	case reply.Error != "":
		return fail(errors.New(reply.Error))
	}
	return l, nil
}

// SendMsg sends a *types.Packet at the next flush at the latest.
func (l *lane) SendMsg(m any) error {
	p, ok := m.(*types.Packet)
	if !ok {
		return errors.New("not a packet")
	}
	n := p.SizeVT()
	l.out = binary.AppendUvarint(l.out, uint64(n))
	l.out = append(l.out, make([]byte, n)...)
	if _, err := p.MarshalToSizedBufferVT(l.out[len(l.out)-n:]); err != nil {
		return err
	}
	if len(l.out) > 8<<10 {
		return l.flush()
	}
	return nil
}

func (l *lane) flush() error {
	if len(l.out) == 0 {
		return nil
	}
	_, err := l.conn.Write(l.out)
	l.out = l.out[:0]
	return err
}

// RecvMsg receives a *packet. It stays valid until the next one is received.
func (l *lane) RecvMsg(m any) error {
	p, ok := m.(*packet)
	if !ok {
		return errors.New("not a packet")
	}
	if _, err := l.in.Discard(l.last); err != nil {
		return err
	}
	l.last = 0
	n, err := session.ReadFrameSize(l.in)
	if err != nil {
		return err
	}
	if n > 0 && n <= l.in.Size() {
		// A list is decoded where it is; content is kept, and goes to a buffer of its own.
		b, err := l.in.Peek(n)
		if err != nil {
			return midway(err)
		}
		if n < 64 || !hasContent(b) {
			l.last = n
			return p.view(b)
		}
	}
	pool := session.Buffers{}
	buf := pool.Get(n)
	if _, err := io.ReadFull(l.in, *buf); err != nil {
		pool.Put(buf)
		return midway(err)
	}
	data := mem.NewBuffer(buf, pool)
	defer data.Free()
	return p.Decode(mem.BufferSlice{data})
}

// hasContent reports whether a packet as our client sends it is one of content.
func hasContent(b []byte) bool {
	return len(b) > 1 && b[0] == 1<<3 && b[1] == byte(types.PACKET_DATA)
}

// midway is what a read error means within a packet.
func midway(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
