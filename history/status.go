package history

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	digest "github.com/opencontainers/go-digest"
)

// maxFrame bounds one message of a log that is read, in bytes.
const maxFrame = 64 << 20

// A frameWriter writes messages, each after its length as four bytes, the lowest first.
type frameWriter struct {
	w   io.Writer
	buf []byte
	err error // the first
}

func (f *frameWriter) write(msg *controlapi.StatusResponse) {
	if f.err != nil {
		return
	}
	size := msg.SizeVT()
	f.buf = append(f.buf[:0], make([]byte, 4+size)...)
	binary.LittleEndian.PutUint32(f.buf, uint32(size))
	if _, f.err = msg.MarshalToSizedBufferVT(f.buf[4:]); f.err == nil {
		_, f.err = f.w.Write(f.buf)
	}
}

// Status sends what a settled build showed. It returns errdefs.ErrNotFound if there is no
// such build.
func (j *Journal) Status(ctx context.Context, ref string, send func(*controlapi.StatusResponse) error) error {
	rec, err := j.Record(ctx, ref)
	if err != nil {
		return err
	}
	if rec.Logs == nil {
		return nil
	}
	ra, err := j.ReaderAt(ctx, digest.Digest(rec.Logs.Digest))
	if err != nil {
		return err
	}
	defer ra.Close()
	r := bufio.NewReader(io.NewSectionReader(ra, 0, ra.Size()))
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("log of build %s: %w", ref, err)
		}
		n := binary.LittleEndian.Uint32(size[:])
		if n > maxFrame {
			return fmt.Errorf("log of build %s: a message of %d bytes", ref, n)
		}
		buf := make([]byte, n)
		if _, err := io.ReadFull(r, buf); err != nil {
			return fmt.Errorf("log of build %s: %w", ref, err)
		}
		msg := &controlapi.StatusResponse{}
		if err := msg.UnmarshalVT(buf); err != nil {
			return fmt.Errorf("log of build %s: %w", ref, err)
		}
		if err := send(msg); err != nil {
			return err
		}
	}
}

// A summary is what a log says about each step.
type summary struct {
	order    []string // digests, in order of appearance
	steps    map[string]*step
	warnings int
}

// A step is one vertex: its last state, and the intervals it was worked on.
type step struct {
	last *controlapi.Vertex
	runs []interval
}

type interval struct {
	started, completed time.Time
	err                string
}

func newSummary() *summary { return &summary{steps: map[string]*step{}} }

func (s *summary) add(msg *controlapi.StatusResponse) {
	s.warnings += len(msg.Warnings)
	for _, v := range msg.Vertexes {
		st := s.steps[v.Digest]
		if st == nil {
			st = &step{}
			s.steps[v.Digest] = st
			s.order = append(s.order, v.Digest)
		}
		st.last = v
		// A vertex may be sent again with nothing but its name changed.
		if v.Completed == nil || v.Started == nil {
			continue
		}
		run := interval{v.Started.AsTime(), v.Completed.AsTime(), v.Error}
		if n := len(st.runs); n > 0 && st.runs[n-1].started.Equal(run.started) {
			st.runs[n-1] = run
		} else {
			st.runs = append(st.runs, run)
		}
	}
}

// count puts the numbers into a record.
func (s *summary) count(rec *controlapi.BuildHistoryRecord) {
	rec.NumTotalSteps = int32(len(s.order))
	rec.NumWarnings = int32(s.warnings)
	for _, st := range s.steps {
		if st.last.Cached {
			rec.NumCachedSteps++
		}
		if st.last.Completed != nil {
			rec.NumCompletedSteps++
		}
	}
}
