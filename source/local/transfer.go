package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"github.com/tonistiigi/fsutil/types"
	"golang.org/x/sync/errgroup"
)

// A Stream carries the packets of one transfer. Received messages are decoded by
// session.Codec. Sending and receiving happen in one goroutine each.
type Stream interface {
	SendMsg(m any) error
	RecvMsg(m any) error
}

// options says how to transfer.
type options struct {
	distrust bool                                  // ask for every file, whatever the client says about it
	trust    bool                                  // files of one size, mode, owner and time are equal
	progress func(bytes int64)                     // called often; may be nil
	warn     func(path, reason string)             // something was left out; may be nil
	donors   []*Tree                               // other trees of the same client to link files from
	open     func(context.Context) (Stream, error) // starts the transfer; required
}

// A transfer makes the tree in dir equal to what a client sends.
type transfer struct {
	dir  string
	o    options
	disk *disk
	reqs *requests
	ctx  context.Context
	late bool // attributes of files come with their content

	old []entry // the index so far
	oi  int     // first entry of old not passed
	out []entry // the new index

	order   order
	next    uint32
	files   map[uint32]*file // asked for, content not ended
	asked   []*file          // all that were asked for
	links   []int            // entries that are hard links
	dirs    []int            // directories to give their metadata
	workers []*worker

	changed  bool                // out differs from old
	touched  map[string]struct{} // directories in which something changed
	fresh    map[string]struct{} // files that were there and have a new inode
	received int64

	marked  sync.Once
	markErr error
}

// receive brings the tree in dir up to date and returns its index. After an error what was
// received stays there, for the next transfer. Nobody else may use dir meanwhile.
func receive(ctx context.Context, dir string, o options) (*index, error) {
	x, sure, err := loadIndex(dir)
	if err != nil {
		return nil, err
	}
	if !sure {
		if x, err = verify(ctx, dir, x); err != nil {
			return nil, err
		}
	}
	d, err := openDisk(dir)
	if err != nil {
		return nil, err
	}
	defer d.close()
	t := &transfer{
		dir: dir, o: o, disk: d, reqs: newRequests(), old: x.entries, changed: !sure,
		out: make([]entry, 0, len(x.entries)+len(x.entries)/8+16), files: map[uint32]*file{}, touched: map[string]struct{}{}, fresh: map[string]struct{}{},
	}
	err = t.run(ctx)
	if err == nil {
		err = t.finish()
	}
	if err != nil {
		// dirty stays: the next transfer checks what is there against this.
		if t.changed {
			_ = (&index{entries: t.partial()}).save(dir)
		}
		return nil, err
	}
	if !t.changed {
		return x, nil
	}
	setEnds(t.out)
	n := &index{entries: t.out, root: rootSum(t.out)}
	if err := n.save(dir); err != nil {
		return nil, err
	}
	if err := os.Remove(filepath.Join(dir, "dirty")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return n, nil
}

// errEnded is why asking stops when the client has ended the stream.
var errEnded = errors.New("transfer ended")

// dirty marks the tree as being changed, before the first change.
func (t *transfer) dirty() error {
	t.marked.Do(func() {
		t.markErr = os.WriteFile(filepath.Join(t.dir, "dirty"), nil, 0o600)
	})
	return t.markErr
}

// run receives everything.
func (t *transfer) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	stream, err := t.o.open(ctx)
	if err != nil {
		return err
	}
	_, t.late = stream.(*lane)
	for range min(4, runtime.GOMAXPROCS(0)) {
		w := newWorker(t)
		t.workers = append(t.workers, w)
		g.Go(func() error { return w.run(ctx) })
	}
	t.ctx = ctx
	asking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	g.Go(func() error {
		if err := t.reqs.run(asking, stream); !errors.Is(err, errEnded) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		defer func() {
			for _, w := range t.workers {
				close(w.in)
			}
		}()
		err := t.receive(stream)
		if err == nil {
			stop(errEnded)
		}
		return err
	})
	return g.Wait()
}

// receive handles packets until the client ends the stream.
func (t *transfer) receive(stream Stream) error {
	var p packet
	defer p.free()
	listed, ended := false, false
	for {
		if err := stream.RecvMsg(&p); err != nil {
			if cause := context.Cause(t.ctx); cause != nil {
				return cause
			}
			if errors.Is(err, io.EOF) {
				if ended {
					return nil
				}
				return errors.New("the client ended the transfer early")
			}
			return err
		}
		t.received += int64(p.size)
		if t.o.progress != nil {
			t.o.progress(t.received)
		}
		var err error
		switch {
		case ended: // nothing that matters can follow
		case p.kind == types.PACKET_ERR:
			err = fmt.Errorf("the client could not send its files: %.1000s", strings.ToValidUTF8(p.text(), "?"))
		case p.kind == types.PACKET_STAT && p.stat != nil && len(p.stat.path) == 0 && t.late:
			err = t.attributes(&p)
		case p.kind == types.PACKET_STAT && listed:
			err = errors.New("client sent a file after the end of its list")
		case p.kind == types.PACKET_STAT && p.stat == nil:
			listed = true
			err = t.listEnd()
			t.reqs.end()
		case p.kind == types.PACKET_STAT:
			err = t.list(p.stat)
		case p.kind == types.PACKET_DATA:
			err = t.data(&p)
		case p.kind == types.PACKET_FIN:
			if !listed || len(t.files) > 0 {
				err = errors.New("the client ended the transfer early")
			}
			ended = true
		}
		if err != nil {
			return err
		}
	}
}

// attributes takes those of a file, before its content.
func (t *transfer) attributes(p *packet) error {
	f, ok := t.files[p.id]
	if !ok || f.begun {
		return fmt.Errorf("client sent attributes of file %d, which was not asked for", p.id)
	}
	_, keep, err := selectXattrs(p.stat, f.want.path)
	f.want.xattrs = packXattrs(keep)
	return err
}

// data hands content to a worker.
func (t *transfer) data(p *packet) error {
	f, ok := t.files[p.id]
	if !ok {
		return fmt.Errorf("client sent content of file %d, which was not asked for", p.id)
	}
	f.begun = true
	if len(p.data) == 0 {
		delete(t.files, p.id)
		return t.send(chunk{f: f})
	}
	pieces := p.keep()
	for i, d := range pieces {
		if err := t.send(chunk{f, d.data, d.buf}); err != nil {
			for _, d := range pieces[i+1:] {
				d.buf.Free()
			}
			return err
		}
	}
	return nil
}

// send hands a chunk to the worker of its file.
func (t *transfer) send(c chunk) error {
	select {
	case t.workers[int(c.f.id)%len(t.workers)].in <- c:
		return nil
	case <-t.ctx.Done():
		c.free()
		return context.Cause(t.ctx)
	}
}

// list handles one path of the client's list.
func (t *transfer) list(s *stat) error {
	id := t.next
	t.next++
	if id >= maxEntries {
		return fmt.Errorf("the directory has more than %d files", maxEntries)
	}
	e, err := t.entry(s)
	if err != nil {
		return err
	}
	if err := t.order.next(e.path, e.kind == kindDir); err != nil {
		return err
	}
	if e.kind == 0 {
		t.warn(e.path, "it is a device, socket or pipe")
		return nil
	}
	if err := t.pass(e.path); err != nil {
		return err
	}
	var old *entry // what is at the path
	if t.oi < len(t.old) && t.old[t.oi].path == e.path {
		old = &t.old[t.oi]
		t.oi++
		if old.kind == kindDir && e.kind != kindDir {
			t.oi = int(old.end)
			if err := t.remove(e.path); err != nil {
				return err
			}
			old = nil
		}
	}
	if old == nil || old.kind != e.kind || old.stat != e.stat || old.link != e.link || !old.sameMeta(&e) || e.kind == kindFile && old.size != e.size {
		t.changed = true
	}
	t.out = append(t.out, e)
	return t.place(id, old)
}

// place makes what the last entry of out says, or asks for it, where old is now.
func (t *transfer) place(id uint32, old *entry) error {
	idx := len(t.out) - 1
	e := &t.out[idx]
	switch e.kind {
	case kindDir:
		switch {
		case old == nil || old.kind != kindDir:
			if err := t.touch(e.path); err != nil {
				return err
			}
			if old != nil {
				if err := t.disk.remove(e.path); err != nil {
					return err
				}
			}
			t.dirs = append(t.dirs, idx)
			return t.disk.mkdir(e.path)
		case !old.sameMeta(e):
			t.dirs = append(t.dirs, idx)
		}
		return nil
	case kindSymlink:
		if old != nil && old.kind == kindSymlink && old.link == e.link && old.sameMeta(e) {
			return nil
		}
		if err := t.touch(e.path); err != nil {
			return err
		}
		return t.disk.symlink(e)
	case kindHardlink:
		i, ok := find(t.out[:idx], e.link)
		if !ok || t.out[i].kind != kindFile {
			return fmt.Errorf("client sent the hard link %q to the unknown file %q", e.path, e.link)
		}
		t.links = append(t.links, idx)
		return nil
	}
	if old != nil && old.kind == kindFile && !t.o.distrust && (e.stat != "" || t.o.trust) && old.stat == e.stat && old.size == e.size && old.sameMeta(e) {
		e.sum = old.sum
		return nil
	}
	if ok, err := t.borrow(e, old); ok || err != nil {
		return err
	}
	if t.late {
		e.xattrs = ""
	}
	f := &file{id: id, idx: idx, want: *e, fd: -1, occupied: old != nil && old.kind != kindBad}
	if old != nil && old.kind == kindFile {
		f.old = old
	}
	t.files[id] = f
	t.asked = append(t.asked, f)
	t.reqs.add(id)
	return nil
}

// borrow links a file from another tree of the same client, if one has it.
func (t *transfer) borrow(e, old *entry) (bool, error) {
	if e.stat == "" || t.o.distrust {
		return false, nil
	}
	for _, d := range t.o.donors {
		i, ok := find(d.index.entries, e.path)
		if !ok {
			continue
		}
		o := &d.index.entries[i]
		if o.kind != kindFile || o.stat != e.stat || o.size != e.size {
			continue
		}
		if t.late { // with the same version they are the same
			e.xattrs = o.xattrs
		}
		if !o.sameMeta(e) {
			continue
		}
		if err := t.touch(e.path); err != nil {
			return false, err
		}
		if old != nil {
			t.fresh[e.path] = struct{}{}
			if err := t.disk.remove(e.path); err != nil {
				return false, err
			}
		}
		if t.disk.linkFrom(d.path(e.path), e.path) != nil {
			return false, nil // too many links, or another file system
		}
		e.sum = o.sum
		return true, nil
	}
	return false, nil
}

// pass removes what the client no longer has before path.
func (t *transfer) pass(path string) error {
	for t.oi < len(t.old) && compare(t.old[t.oi].path, path) < 0 {
		if err := t.drop(); err != nil {
			return err
		}
	}
	return nil
}

// drop removes the next old entry, with all below it.
func (t *transfer) drop() error {
	e := &t.old[t.oi]
	t.changed = true
	if e.kind != kindBad {
		if err := t.remove(e.path); err != nil {
			return err
		}
	}
	t.oi++
	if e.kind == kindDir {
		t.oi = int(e.end)
	}
	return nil
}

func (t *transfer) listEnd() error {
	for t.oi < len(t.old) {
		if err := t.drop(); err != nil {
			return err
		}
	}
	return nil
}

func (t *transfer) remove(path string) error {
	if err := t.touch(path); err != nil {
		return err
	}
	return t.disk.remove(path)
}

// touch prepares a change of the name path.
func (t *transfer) touch(path string) error {
	t.changed = true
	t.touched[dirname(path)] = struct{}{}
	return t.dirty()
}

func (t *transfer) warn(path, reason string) {
	if t.o.warn != nil {
		t.o.warn(path, reason)
	}
}

// view returns b as a string that is good only as long as b is not written.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
