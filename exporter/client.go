package exporter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/session"
	bksession "github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// A Client is where the files of an export go: the n-th exporter of a client's request.
type Client struct {
	Sessions *bksession.Manager
	Index    int // position among the exporters of the request
}

// joinTimeout is how long a session may take to appear.
const joinTimeout = 5 * time.Second

// Caller returns the first session that has the given gRPC method.
func (c Client) Caller(ctx context.Context, a Access, method string) (bksession.Caller, error) {
	var last error
	for _, id := range a.SessionIDs {
		wait, cancel := context.WithTimeout(ctx, joinTimeout)
		caller, err := c.Sessions.Get(wait, id, false)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err != nil:
			last = fmt.Errorf("the client is gone: %w", errdefs.ErrUnavailable)
		case caller.Supports(method):
			return caller, nil
		default:
			last = fmt.Errorf("the client takes no files (it gave no destination): %w", errdefs.ErrFailedPrecondition)
		}
	}
	if last == nil {
		last = fmt.Errorf("there is no client to send files to: %w", errdefs.ErrFailedPrecondition)
	}
	return nil, last
}

// fileSend is what a client offers that takes files; see session/filesync.
var fileSend = bksession.MethodURL(filesync.FileSend_ServiceDesc.ServiceName, "DiffCopy")

// writeSize is how much of a stream is sent in one message.
const writeSize = 1 << 20

// SendStream lets write produce a file at the client. md is told to the client before;
// if it has the file already, that is success.
func (c Client) SendStream(ctx context.Context, a Access, md map[string]string, write func(io.Writer) error) error {
	caller, err := c.Caller(ctx, a, fileSend)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := filesync.CopyFileWriter(ctx, md, c.Index, caller)
	if err == nil {
		buf := bufio.NewWriterSize(w, writeSize)
		if err = write(buf); err == nil {
			err = buf.Flush()
		}
		if err == nil {
			err = w.Close()
		} else {
			cancel() // the client must not take half a file for a whole one
		}
	}
	if codeOf(err) == codes.AlreadyExists {
		return nil
	}
	return err
}

func codeOf(err error) codes.Code {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Code()
	}
	if err == nil {
		return codes.OK
	}
	return codes.Unknown
}

// Metadata keys of FileSend; see reference session/filesync.
const (
	mdExporter = "buildkit-attachable-exporter-id"
	mdSplit    = "buildkit-exporter-multi-platform" // parts of several platforms come in one tree
)

// SendTree sends a tree of files to the client, which asks for the contents it wants.
func (c Client) SendTree(ctx context.Context, a Access, tree fsutil.FS, progress func(int, bool)) error {
	caller, err := c.Caller(ctx, a, fileSend)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(caller.Context(ctx))
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, mdExporter, strconv.Itoa(c.Index), mdSplit, "1")
	stream, err := filesync.NewFileSendClient(caller.Conn()).DiffCopy(ctx, grpc.ForceCodecV2(session.Codec{}))
	if err != nil {
		return err
	}
	es := newEager(stream)
	files := &openedFS{FS: tree}
	err = fsutil.Send(stream.Context(), es, files, progress)
	if err == nil {
		err = files.failed()
	}
	if err == nil {
		err = stream.CloseSend()
	}
	// Whoever sends to a client that has given up sees just that the call is over.
	over := ctx.Err() == nil && (errors.Is(err, context.Canceled) || errors.Is(err, io.EOF))
	if err != nil {
		cancel()
	}
	// The last word is the client's: it may have failed to write what it got.
	if last := es.wait(); (err == nil || over) && last != io.EOF {
		err = last
	}
	return err
}

// openedFS remembers that a file could not be opened, which fsutil sends as an empty one.
type openedFS struct {
	fsutil.FS
	mu  sync.Mutex
	err error
}

func (o *openedFS) Open(p string) (io.ReadCloser, error) {
	rc, err := o.FS.Open(p)
	if err != nil {
		o.mu.Lock()
		o.err = err
		o.mu.Unlock()
	}
	return rc, err
}

func (o *openedFS) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// eager receives ahead of its reader. The client asks for thousands of files before it
// takes the first byte of one; a sender that stopped listening while it waits to be
// listened to would wait for ever. The queue is bounded by the number of files: each is
// asked for once.
type eager struct {
	grpc.ClientStream
	mu    sync.Mutex // guards queue and err
	more  *sync.Cond
	queue []*types.Packet
	err   error
	ended chan struct{}
}

func newEager(s grpc.ClientStream) *eager {
	e := &eager{ClientStream: s, ended: make(chan struct{})}
	e.more = sync.NewCond(&e.mu)
	go e.pump()
	return e
}

// pump ends with the stream.
func (e *eager) pump() {
	defer close(e.ended)
	for {
		p := &types.Packet{}
		err := e.ClientStream.RecvMsg(p)
		e.mu.Lock()
		if err != nil {
			e.err = err
		} else {
			e.queue = append(e.queue, p)
		}
		e.more.Signal()
		e.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// RecvMsg takes what was received. Only fsutil calls it, from one goroutine.
func (e *eager) RecvMsg(m any) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.queue) == 0 {
		if e.err != nil {
			return e.err
		}
		e.more.Wait()
	}
	p := e.queue[0]
	e.queue[0] = nil
	e.queue = e.queue[1:]
	dst, ok := m.(*types.Packet)
	if !ok {
		return errors.New("the file protocol has packets only")
	}
	dst.Type, dst.Stat, dst.ID, dst.Data = p.Type, p.Stat, p.ID, p.Data
	return nil
}

// wait returns how the stream ended.
func (e *eager) wait() error {
	<-e.ended
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}
