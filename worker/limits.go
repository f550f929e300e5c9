package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker/runc"
)

// stopGrace is how long processes have to end after they are told that their time is over.
const stopGrace = 3 * time.Second

// A TimeoutError says that a process was stopped because its time was over.
type TimeoutError struct {
	After time.Duration
	Last  string // the last line it printed; may be empty
}

func (e *TimeoutError) Error() string {
	msg := fmt.Sprintf("stopped after %s, its time limit", e.After)
	if e.Last == "" {
		return msg + "; it printed nothing"
	}
	return msg + "; the last it printed was " + strconv.Quote(e.Last)
}

// Is makes a timeout a deadline that was exceeded.
func (e *TimeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// A TriesError is the error of the last of several tries.
type TriesError struct {
	Tries int
	Err   error
}

func (e *TriesError) Error() string {
	return fmt.Sprintf("%v (tried %d times)", e.Err, e.Tries)
}

// Unwrap returns the error of the last try.
func (e *TriesError) Unwrap() error { return e.Err }

// tries runs once as often as the limits allow. Each try begins with what the one before
// began with, but for what that left in cache mounts.
func (o *execOp) tries(ctx context.Context, d solver.Demand, once func(try int) ([]solver.Ref, error)) ([]solver.Ref, error) {
	for try := 1; ; try++ {
		var line interface{ Done() }
		if try > 1 {
			line = d.Log().Track(fmt.Sprintf("attempt %d of %d", try, o.limits.Retry+1))
		}
		refs, err := once(try)
		if line != nil {
			line.Done()
		}
		if err != nil && ctx.Err() == nil && o.again(try, err) {
			out := d.Log().Output(2)
			fmt.Fprintf(out, "attempt %d of %d failed, trying again: %v\n", try, o.limits.Retry+1, reason(err))
			out.Close()
			continue
		}
		return refs, err
	}
}

// reason is why a process failed, without its command line.
func reason(err error) error {
	var failed *ExecError
	if errors.As(err, &failed) {
		return failed.Err
	}
	return err
}

// again says whether a try that failed is followed by another. What is no failure of the
// process is not.
func (o *execOp) again(try int, err error) bool {
	if o.limits.Retry == 0 {
		return false
	}
	var late *TimeoutError
	var exit *runc.ExitError
	switch {
	case errors.As(err, &late):
		return o.limits.Again(try, -1)
	case errors.As(err, &exit):
		return o.limits.Again(try, exit.Code)
	}
	return false
}

// execute runs a process within its limits. Errors are those of runc.Executor.Run, or a
// *TimeoutError.
func (o *execOp) execute(ctx context.Context, p runc.Process, l llb.RunLimits) error {
	if l.Timeout == 0 {
		return o.w.Executor.Run(ctx, p)
	}
	p.Timeout, p.Grace = l.Timeout, stopGrace
	last := &lastLine{}
	p.Stdout, p.Stderr = last.tee(p.Stdout), last.tee(p.Stderr)
	err := o.w.Executor.Run(ctx, p)
	if errors.Is(err, runc.ErrTimeout) {
		return &TimeoutError{After: l.Timeout, Last: last.String()}
	}
	return err
}

// A lastLine remembers the end of what is printed.
type lastLine struct {
	mu   sync.Mutex
	tail []byte // under mu
}

// maxLastLine bounds what is remembered, in bytes.
const maxLastLine = 512

type tee struct {
	io.Writer
	last *lastLine
}

func (l *lastLine) tee(w io.Writer) io.Writer { return tee{w, l} }

func (t tee) Write(p []byte) (int, error) {
	t.last.add(p)
	return t.Writer.Write(p)
}

func (l *lastLine) add(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail = append(l.tail, p[max(0, len(p)-maxLastLine):]...)
	l.tail = l.tail[max(0, len(l.tail)-maxLastLine):]
}

func (l *lastLine) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := bytes.TrimSpace(l.tail)
	if i := bytes.LastIndexAny(text, "\r\n"); i >= 0 {
		text = text[i+1:]
	}
	return strings.ToValidUTF8(string(text), "")
}
