package contextfs

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/dbuild/dbuild/session"
	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// pieceSize is how many bytes of a file are sent at once.
const pieceSize = 128 << 10

// Send sends what patterns say of f on a lane, first a list of all, then the files that
// the other side asks for. It is what fsutil.Send does, with fewer and larger writes. When
// it returns with an error, the caller ends reads of conn.
func (f *FS) Send(ctx context.Context, conn io.Writer, in *bufio.Reader, p Patterns) error {
	s := &sender{fs: f, conn: conn, out: bufio.NewWriterSize(conn, pieceSize)}
	s.more.L = &s.queueMu
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, s.end)
	defer stop()
	g.Go(func() error {
		err := s.list(ctx, p)
		if err != nil && ctx.Err() == nil {
			s.complain(err)
		}
		return err
	})
	g.Go(func() error {
		defer s.end()
		return s.receive(in)
	})
	for range min(4, runtime.GOMAXPROCS(0)) {
		g.Go(s.serve)
	}
	if err := g.Wait(); err != nil {
		return err
	}
	fin := types.Packet{Type: types.PACKET_FIN}
	return errors.Join(s.packet(&fin, nil), s.flush())
}

// A sender is one transfer.
type sender struct {
	fs *FS

	outMu sync.Mutex
	conn  io.Writer
	out   *bufio.Writer // to conn

	filesMu sync.Mutex
	files   []string // paths of regular files by number; "" for what has no content

	queueMu sync.Mutex
	more    sync.Cond
	queue   []uint32 // asked for
	ended   bool     // nothing more will be asked for
}

func (s *sender) end() {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	s.ended = true
	s.more.Broadcast()
}

// packet writes p and content as a frame. Content must not be in p: it is its last field.
func (s *sender) packet(p *types.Packet, content []byte) error {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	return s.write(p, content)
}

// write is packet for one who holds outMu.
func (s *sender) write(p *types.Packet, content []byte) error {
	const dataTag = 4<<3 | 2 // types.Packet.Data
	n := p.SizeVT()
	size, head := n, 0
	var data [binary.MaxVarintLen64 + 1]byte
	if len(content) > 0 {
		data[0] = dataTag
		head = 1 + binary.PutUvarint(data[1:], uint64(len(content)))
		size += head + len(content)
	}
	if s.out.Available() < n+2*binary.MaxVarintLen64 {
		if err := s.out.Flush(); err != nil {
			return err
		}
	}
	b := binary.AppendUvarint(s.out.AvailableBuffer(), uint64(size))
	if cap(b)-len(b) >= n {
		b = b[:len(b)+n]
		if _, err := p.MarshalToSizedBufferVT(b[len(b)-n:]); err != nil {
			return err
		}
	} else { // large attributes
		m, err := p.MarshalVT()
		if err != nil {
			return err
		}
		b = append(b, m...)
	}
	if _, err := s.out.Write(b); err != nil || len(content) == 0 {
		return err
	}
	if _, err := s.out.Write(data[:head]); err != nil {
		return err
	}
	if len(content) >= pieceSize/4 { // a write more is cheaper than a copy
		if err := s.out.Flush(); err != nil {
			return err
		}
		_, err := s.conn.Write(content)
		return err
	}
	_, err := s.out.Write(content)
	return err
}

func (s *sender) flush() error {
	s.outMu.Lock()
	defer s.outMu.Unlock()
	return s.out.Flush()
}

// complain tells the other side why there is no more.
func (s *sender) complain(err error) {
	p := types.Packet{Type: types.PACKET_ERR, Data: []byte(err.Error())}
	_ = s.packet(&p, nil) // it sees the end of the stream anyhow
	_ = s.flush()
}

// list sends the list.
func (s *sender) list(ctx context.Context, patterns Patterns) error {
	var st types.Stat
	p := types.Packet{Type: types.PACKET_STAT, Stat: &st}
	links := map[inode]string{}
	own, version := map[string][]byte{}, make([]byte, 0, 64)
	err := s.fs.list(ctx, patterns, func(path string, it *item) error {
		it.fill(&st, path, links)
		if it.hasVersion && s.fs.version != nil {
			if st.Xattrs == nil {
				clear(own)
				st.Xattrs = own
			}
			s.fs.addVersion(&st, it, version)
		}
		file := ""
		if it.mode.IsRegular() {
			file = path
		}
		s.filesMu.Lock()
		s.files = append(s.files, file)
		s.filesMu.Unlock()
		return s.packet(&p, nil)
	})
	if err != nil {
		return err
	}
	if err := s.packet(&types.Packet{Type: types.PACKET_STAT}, nil); err != nil {
		return err
	}
	return s.flush()
}

// receive takes requests until there are no more.
func (s *sender) receive(in *bufio.Reader) error {
	var p types.Packet
	var b []byte
	for {
		n, err := session.ReadFrameSize(in)
		if err != nil {
			return unexpected(err)
		}
		b = append(b[:0], make([]byte, n)...)
		if _, err := io.ReadFull(in, b); err != nil {
			return unexpected(err)
		}
		p.Reset()
		if err := p.UnmarshalVT(b); err != nil {
			return err
		}
		switch p.Type {
		case types.PACKET_ERR:
			return fmt.Errorf("the daemon says: %s", p.Data)
		case types.PACKET_REQ:
			s.queueMu.Lock()
			s.queue = append(s.queue, p.ID)
			s.queueMu.Unlock()
			s.more.Signal()
		case types.PACKET_FIN:
			return nil
		}
	}
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// serve sends files that were asked for.
func (s *sender) serve() error {
	buf := make([]byte, pieceSize)
	for {
		s.queueMu.Lock()
		if len(s.queue) == 0 && !s.ended {
			s.queueMu.Unlock()
			if err := s.flush(); err != nil {
				return err
			}
			s.queueMu.Lock()
		}
		for len(s.queue) == 0 && !s.ended {
			s.more.Wait()
		}
		if len(s.queue) == 0 {
			s.queueMu.Unlock()
			return nil
		}
		id := s.queue[0]
		s.queue = s.queue[1:]
		s.queueMu.Unlock()
		if err := s.file(id, buf); err != nil {
			return err
		}
	}
}

// file sends the attributes of a file, its content and then its end. What cannot be opened
// has none.
func (s *sender) file(id uint32, buf []byte) error {
	s.filesMu.Lock()
	path := ""
	if int(id) < len(s.files) {
		path, s.files[id] = s.files[id], ""
	}
	s.filesMu.Unlock()
	if path == "" {
		return fmt.Errorf("the daemon asks for file %d, which it was not offered", id)
	}
	p := types.Packet{Type: types.PACKET_DATA, ID: id}
	fd, err := open(filepath.Join(s.fs.root, path))
	if err != nil {
		return s.packet(&p, nil)
	}
	defer unix.Close(fd)
	xattrs, err := byFD(fd, path).xattrs()
	if err != nil {
		return err
	}
	if len(xattrs) > 0 {
		a := types.Packet{Type: types.PACKET_STAT, ID: id, Stat: &types.Stat{Xattrs: xattrs}}
		if err := s.packet(&a, nil); err != nil {
			return err
		}
	}
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return s.packet(&p, nil)
		}
		if err := s.packet(&p, buf[:n]); err != nil {
			return err
		}
	}
}

// open opens a file that was a regular one when it was listed, and does not wait if it has
// become something else.
func open(name string) (int, error) {
	for {
		fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
