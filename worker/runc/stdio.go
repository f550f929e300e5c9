package runc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// drainTimeout is how long after the end of a container to wait for more of its output. All
// its processes are dead by then, so that the end of the pipes follows at once.
const drainTimeout = 2 * time.Second

// stdio connects the standard files of a container with readers and writers.
type stdio struct {
	in, out, err *os.File // the container's
	copies       sync.WaitGroup
	ended        atomic.Bool // the container has

	mu       sync.Mutex
	ours     []*os.File // under mu: the other ends
	writeErr error      // under mu: the first error of a writer

	terminal *terminal // nil if there is none
}

// openStdio starts to copy what a container will write. Both outputs are one pipe, and keep
// their order, if they go to the same writer.
func openStdio(in io.Reader, out, err io.Writer) (*stdio, error) {
	s := new(stdio)
	var e error
	if s.in, e = s.input(in); e != nil {
		_ = s.finish()
		return nil, e
	}
	if s.out, e = s.output(out); e != nil {
		_ = s.finish()
		return nil, e
	}
	if sameWriter(out, err) {
		s.err = s.out
		return s, nil
	}
	if s.err, e = s.output(err); e != nil {
		_ = s.finish()
		return nil, e
	}
	return s, nil
}

func sameWriter(a, b io.Writer) bool {
	defer func() { _ = recover() }() // types that cannot be compared are not the same
	return a == b
}

func (s *stdio) input(from io.Reader) (*os.File, error) {
	if from == nil {
		return os.Open(os.DevNull)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	// This goroutine is the one that may outlive the run: until from returns.
	go func() {
		_, _ = io.Copy(w, from)
		w.Close()
	}()
	return r, nil
}

func (s *stdio) output(to io.Writer) (*os.File, error) {
	if to == nil {
		return os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.keep(r)
	s.copies.Go(func() { s.copy(to, r) })
	return w, nil
}

// keep keeps an end of ours until finish.
func (s *stdio) keep(f *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ours = append(s.ours, f)
}

func (s *stdio) files() [3]*os.File { return [3]*os.File{s.in, s.out, s.err} }

// copy copies until the end of the pipe. The container is not stopped by a writer that
// fails: what it writes then is dropped.
func (s *stdio) copy(to io.Writer, from *os.File) {
	buf := make([]byte, 32<<10)
	for {
		if s.ended.Load() {
			// Counted from here: a writer may have been slow.
			_ = from.SetReadDeadline(time.Now().Add(drainTimeout))
		}
		n, err := from.Read(buf)
		if n > 0 && to != nil {
			if _, werr := to.Write(buf[:n]); werr != nil {
				s.mu.Lock()
				if s.writeErr == nil {
					s.writeErr = fmt.Errorf("write output: %w", werr)
				}
				s.mu.Unlock()
				to = nil
			}
		}
		if err != nil {
			return
		}
	}
}

// close closes the container's files; what it holds itself stays open.
func (s *stdio) close() {
	for _, f := range []*os.File{s.in, s.out, s.err} {
		if f != nil {
			f.Close()
		}
	}
}

// finish is called when the container has ended. It returns when all its output was
// written, and the first error of that.
func (s *stdio) finish() error {
	s.close()
	s.ended.Store(true)
	s.mu.Lock()
	for _, f := range s.ours {
		_ = f.SetReadDeadline(time.Now().Add(drainTimeout))
	}
	s.mu.Unlock()
	s.copies.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.ours {
		f.Close()
	}
	if errors.Is(s.writeErr, io.ErrClosedPipe) {
		return nil // the reader has seen enough
	}
	return s.writeErr
}
