package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/mem"
)

const (
	small  = 256 << 10 // files up to this size are held in memory until they are complete
	budget = 8 << 20   // bytes of such files a worker holds at once
)

// A fileState is what has become of a file that was asked for.
type fileState int

const (
	waiting   fileState = iota
	unchanged           // the content came and is what we have
	stored              // new content is in place
	unread              // the client could not read it
)

// A file is one whose content was asked for. Until it is complete it belongs to the
// worker that its id falls to.
type file struct {
	id       uint32
	idx      int    // of its entry
	want     entry  // path and metadata
	old      *entry // the file now at the path, if there is one
	occupied bool   // there is something at the path

	begun bool    // something was received; belongs to the receiver
	held  []chunk // received, not written
	nheld int
	n     int64    // bytes received
	hash  *hasher  // of what was received; nil while it is held or compared
	fd    int      // being written; -1: none
	tmp   string   // name in tmp/ of what is being written; "" if it is in place
	cmp   *os.File // the old file, while all that was received is equal to it
	equal int64    // bytes found equal in cmp

	state fileState // results
	sum   [32]byte
}

// A chunk is a piece of content; with no data it is the end of the file.
type chunk struct {
	f    *file
	data []byte
	buf  mem.Buffer // that data is in
}

func (c *chunk) free() {
	if c.buf != nil {
		c.buf.Free()
		c.buf = nil
	}
}

// A worker writes and hashes the files that fall to it.
type worker struct {
	t       *transfer
	disk    *disk
	in      chan chunk
	held    int
	open    map[*file]struct{} // files begun and not complete
	scratch []byte
}

func newWorker(t *transfer) *worker {
	return &worker{t: t, disk: t.disk.clone(), in: make(chan chunk, 64), open: map[*file]struct{}{}}
}

// run works until in is closed. Afterwards nothing is open.
func (w *worker) run(ctx context.Context) (err error) {
	defer func() {
		for f := range w.open {
			w.abandon(f)
		}
		w.disk.forget()
	}()
	for {
		select {
		case c, ok := <-w.in:
			if !ok {
				return nil
			}
			if err := w.take(c); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (w *worker) take(c chunk) error {
	f := c.f
	if len(c.data) == 0 {
		c.free()
		delete(w.open, f)
		err := w.finish(f)
		w.abandon(f) // what finish left open
		if err == nil {
			w.t.reqs.done()
		}
		return err
	}
	w.open[f] = struct{}{}
	f.n += int64(len(c.data))
	if f.fd < 0 && f.cmp == nil {
		if f.nheld+len(c.data) <= small && w.held+len(c.data) <= budget {
			f.held = append(f.held, c)
			f.nheld += len(c.data)
			w.held += len(c.data)
			return nil
		}
		if err := w.spill(f); err != nil {
			c.free()
			return err
		}
	}
	defer c.free()
	return w.put(f, &c)
}

// drop frees what is held of f.
func (w *worker) drop(f *file) {
	for i := range f.held {
		f.held[i].free()
	}
	w.held -= f.nheld
	f.held, f.nheld = nil, 0
}

// abandon closes and removes what is unfinished of f.
func (w *worker) abandon(f *file) {
	w.drop(f)
	if f.cmp != nil {
		f.cmp.Close()
		f.cmp = nil
	}
	if f.hash != nil {
		f.hash.sum()
		f.hash = nil
	}
	if f.fd >= 0 {
		unix.Close(f.fd)
		f.fd = -1
	}
	if f.tmp != "" {
		_ = unix.Unlinkat(w.disk.tmp, f.tmp, 0) // if not, the next transfer removes it
		f.tmp = ""
	}
}

// spill starts to put a file on disk, or to compare it with the one that is there if it
// may be the same: reading that is cheaper than writing it again.
func (w *worker) spill(f *file) error {
	held := f.held
	f.held = nil
	defer func() {
		f.held = held
		w.drop(f)
	}()
	if f.old != nil && f.old.size == f.want.size && f.old.sameMeta(&f.want) {
		fd, err := w.disk.open(f.want.path, unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		f.cmp = os.NewFile(uintptr(fd), f.want.path)
	} else if err := w.create(f); err != nil {
		return err
	}
	for i := range held {
		if err := w.put(f, &held[i]); err != nil {
			return err
		}
	}
	return nil
}

// put compares or writes the next bytes of a spilled file.
func (w *worker) put(f *file, c *chunk) error {
	data := c.data
	if f.cmp != nil {
		if len(w.scratch) < len(data) {
			w.scratch = make([]byte, max(len(data), 64<<10))
		}
		got := w.scratch[:len(data)]
		_, err := io.ReadFull(f.cmp, got)
		switch {
		case err == nil && bytes.Equal(got, data):
			f.equal += int64(len(data))
			return nil
		case err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
			return err
		}
		if err := w.diverge(f); err != nil {
			return err
		}
	}
	return w.write(f, data, c.buf)
}

// diverge turns comparing into writing: the bytes received last differ or lie beyond the
// end. What was equal before them is copied from the old file.
func (w *worker) diverge(f *file) error {
	old := f.cmp
	f.cmp = nil
	defer old.Close()
	if err := w.create(f); err != nil {
		return err
	}
	for off := int64(0); off < f.equal; {
		buf := w.scratch[:min(int64(len(w.scratch)), f.equal-off)]
		n, err := old.ReadAt(buf, off)
		if n == 0 && err != nil {
			return err
		}
		if err := w.write(f, buf[:n], nil); err != nil {
			return err
		}
		off += int64(n)
	}
	return nil
}

// create opens the file that content is written to: in place if there is nothing there
// yet, else in tmp/.
func (w *worker) create(f *file) error {
	if err := w.t.dirty(); err != nil {
		return err
	}
	dir, name := w.disk.tmp, strconv.FormatUint(uint64(f.id), 10)
	if !f.occupied {
		var err error
		if dir, name, err = w.disk.parent(f.want.path); err != nil {
			return err
		}
	}
	const flags = unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err := unix.Openat(dir, name, flags, 0o600)
	if err != nil {
		return w.disk.fail("create", f.want.path, err)
	}
	f.fd = fd
	if f.occupied {
		f.tmp = name
	}
	return nil
}

// write writes data, which is in buf if that is not nil, and has it hashed meanwhile.
func (w *worker) write(f *file, data []byte, buf mem.Buffer) error {
	if f.hash == nil {
		f.hash = newHasher()
	}
	f.hash.add(data, buf)
	return w.writeOnly(f, data)
}

func (w *worker) writeOnly(f *file, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(f.fd, data)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return w.disk.fail("write", f.want.path, err)
		}
		data = data[n:]
	}
	return nil
}

// finish puts a file that was received whole in its place, or leaves the old one there if
// it is the same.
func (w *worker) finish(f *file) error {
	switch {
	case f.n == 0 && f.want.size > 0:
		f.state = unread
		return nil
	case f.cmp != nil && f.equal == f.old.size:
		f.state, f.sum = unchanged, f.old.sum
		return nil
	case f.cmp != nil: // the new one is a prefix of the old
		if err := w.diverge(f); err != nil {
			return err
		}
	case f.fd < 0:
		f.sum = sumChunks(f.held)
		if f.old != nil && f.old.size == f.n && f.old.sum == f.sum && f.old.sameMeta(&f.want) {
			f.state = unchanged
			return nil
		}
		if err := w.create(f); err != nil {
			return err
		}
		for i := range f.held {
			if err := w.writeOnly(f, f.held[i].data); err != nil {
				return err
			}
		}
		return w.place(f)
	}
	if f.hash == nil { // it has become empty
		f.hash = newHasher()
	}
	f.sum = f.hash.sum()
	f.hash = nil
	return w.place(f)
}

func sumChunks(list []chunk) [32]byte {
	if len(list) == 1 {
		return sha256.Sum256(list[0].data)
	}
	h := sha256.New()
	for i := range list {
		h.Write(list[i].data)
	}
	return [32]byte(h.Sum(nil))
}

// place gives the written file its metadata and its name.
func (w *worker) place(f *file) error {
	if err := w.disk.setMeta(f.fd, &f.want, false); err != nil {
		return err
	}
	err := unix.Close(f.fd)
	f.fd = -1
	if err != nil {
		return w.disk.fail("close", f.want.path, err)
	}
	if f.tmp != "" {
		dir, name, err := w.disk.parent(f.want.path)
		if err != nil {
			return err
		}
		if err := unix.Renameat(w.disk.tmp, f.tmp, dir, name); err != nil {
			return w.disk.fail("rename", f.want.path, err)
		}
		f.tmp = ""
	}
	f.state = stored
	return nil
}
