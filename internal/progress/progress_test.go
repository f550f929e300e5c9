package progress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	digest "github.com/opencontainers/go-digest"
)

func vtx(name string, inputs ...string) Vertex {
	v := Vertex{Digest: digest.FromString(name), Name: name}
	for _, in := range inputs {
		v.Inputs = append(v.Inputs, digest.FromString(in))
	}
	return v
}

// drain reads until the stream ends.
func drain(t *testing.T, r *Reader) []Event {
	t.Helper()
	var all []Event
	for {
		evs, err := r.Next(t.Context(), 0)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(evs) == 0 {
			t.Fatal("Next returned no event and no error")
		}
		all = append(all, evs...)
	}
}

// text prints events one per line, without times.
func text(evs []Event) string {
	names := map[digest.Digest]string{}
	var b strings.Builder
	for _, e := range evs {
		if v := e.Vertex; v != nil {
			names[e.Digest] = v.Name
		}
		fmt.Fprint(&b, names[e.Digest], ":")
		switch {
		case e.Vertex != nil:
			v := e.Vertex
			if v.Digest != e.Digest {
				fmt.Fprint(&b, " WRONG DIGEST")
			}
			if v.Cached {
				fmt.Fprint(&b, " cached")
				if v.Started == nil || v.Completed == nil || !v.Started.Equal(*v.Completed) {
					fmt.Fprint(&b, " WITH DURATION")
				}
			} else {
				if v.Started != nil {
					fmt.Fprint(&b, " started")
				}
				if v.Completed != nil {
					fmt.Fprint(&b, " completed")
				}
			}
			if v.Error != "" {
				fmt.Fprint(&b, " error=", v.Error)
			}
		case e.Status != nil:
			fmt.Fprintf(&b, " line %q %d/%d", e.Status.ID, e.Status.Current, e.Status.Total)
			if e.Status.Completed != nil {
				fmt.Fprint(&b, " completed")
			}
		case e.Output != nil:
			fmt.Fprintf(&b, " out%d %q", e.Output.Stream, e.Output.Data)
		case e.Warning != nil:
			fmt.Fprintf(&b, " warning %s", e.Warning.Short)
		}
		fmt.Fprintln(&b)
	}
	return b.String()
}

func equal(t *testing.T, got, want string) {
	t.Helper()
	want = strings.TrimLeft(strings.ReplaceAll(want, "\t", ""), "\n")
	if got != want {
		t.Errorf("got:\n%swant:\n%s", got, want)
	}
}

func TestNilDoesNothing(t *testing.T) {
	var l *Log
	l.Start()(errors.New("x"))
	l.Resume()(nil)
	l.Cached()
	l.Status(Status{ID: "x"})
	l.Warn(Warning{})
	l.Link(NewLog())
	tr := l.Track("x")
	tr.Set(1, 2)
	tr.Done()
	w := l.Output(1)
	if n, err := w.Write([]byte("abc")); n != 3 || err != nil {
		t.Error(n, err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	var s *Stream
	s.Attach(NewLog(), vtx("a"))
	s.Close()
	if _, err := s.Reader().Next(t.Context(), 0); err != io.EOF {
		t.Error(err)
	}
}

func TestEventsInOrderAndLateReaders(t *testing.T) {
	s := NewStream()
	l := NewLog()
	early := s.Reader()
	s.Attach(l, vtx("a"))
	done := l.Start()
	l.Output(1).Write([]byte("one\n"))
	l.Output(2).Write([]byte("two\n"))
	tr := l.Track("pulling")
	l.Warn(Warning{Short: []byte("hm")})
	tr.Set(5, 10)
	tr.Done()
	done(errors.New("exit code: 1"))
	done(nil)
	s.Attach(l, vtx("a"))
	renamed := vtx("a")
	renamed.Name = "b"
	s.Attach(l, renamed)
	late := NewStream() // another build that shares the log
	late.Attach(l, vtx("x"))
	s.Close()
	late.Close()
	want := `
	a:
	a: started
	a: out1 "one\n"
	a: out2 "two\n"
	a: line "pulling" 5/10 completed
	a: warning hm
	a: started completed error=exit code: 1
	`
	// The new name is in all events read after it was given.
	equal(t, strings.ReplaceAll(text(drain(t, early)), "b:", "a:"), want+"a: started completed error=exit code: 1\n")
	equal(t, strings.ReplaceAll(text(drain(t, s.Reader())), "b:", "a:"), want+"a: started completed error=exit code: 1\n")
	equal(t, strings.ReplaceAll(text(drain(t, late.Reader())), "x:", "a:"), want)
}

func TestOverlappingIntervals(t *testing.T) {
	s, l := NewStream(), NewLog()
	s.Attach(l, vtx("a"))
	d1 := l.Start()
	d2 := l.Start()
	d1(fmt.Errorf("stopped: %w", context.Canceled))
	l.Cached() // not while open
	d2(errors.New("boom"))
	l.Start()(fmt.Errorf("%w by hand", context.Canceled))
	l.Cached()
	l.Cached()
	l.Resume()(nil) // what was found is fetched
	l.Start()(nil)  // it is made after all
	l.Resume()(nil)
	s.Close()
	equal(t, text(drain(t, s.Reader())), `
	a:
	a: started
	a: started completed error=boom
	a: started
	a: started completed error=context canceled by hand: context canceled
	a: cached
	a: cached WITH DURATION
	a: cached WITH DURATION
	a: started
	a: started completed
	a: started
	a: started completed
	`)
}

func TestUntouchedInputsAreCached(t *testing.T) {
	s := NewStream()
	logs := map[string]*Log{}
	for _, v := range []Vertex{vtx("base"), vtx("apk", "base"), vtx("src"), vtx("make", "src"), vtx("copy", "apk", "make"), vtx("top", "copy")} {
		logs[v.Name] = NewLog()
		s.Attach(logs[v.Name], v)
	}
	logs["base"].Start()(nil)
	logs["src"].Start()(nil)
	run := logs["make"].Start()
	logs["copy"].Cached()
	logs["top"].Start()(nil)
	run(nil)
	s.Close()
	var got []Event
	for _, e := range drain(t, s.Reader()) {
		if e.Vertex.Started != nil {
			got = append(got, e)
		}
	}
	equal(t, text(got), `
	base: started
	base: started completed
	src: started
	src: started completed
	make: started
	apk: cached
	copy: cached
	top: started
	top: started completed
	make: started completed
	`)
}

func TestLongUntouchedChain(t *testing.T) {
	s := NewStream()
	const n = 20000
	var last *Log
	for i := range n {
		v := vtx(fmt.Sprint(i))
		if i > 0 {
			v = vtx(fmt.Sprint(i), fmt.Sprint(i-1))
		}
		last = NewLog()
		s.Attach(last, v)
	}
	last.Cached()
	s.Close()
	cached := 0
	for _, e := range drain(t, s.Reader()) {
		if e.Vertex.Cached {
			cached++
		}
	}
	if cached != n {
		t.Errorf("%d of %d shown as cached", cached, n)
	}
}

func TestCloseCancelsWhatIsOpen(t *testing.T) {
	s, l := NewStream(), NewLog()
	s.Attach(l, vtx("a"))
	s.Attach(NewLog(), vtx("never"))
	done := l.Start()
	s.Close()
	s.Close()
	done(nil)
	s.Attach(NewLog(), vtx("late"))
	if len(l.subs) != 0 {
		t.Error("a closed stream is still attached")
	}
	equal(t, text(drain(t, s.Reader())), `
	a:
	never:
	a: started
	a: started completed error=context canceled
	`)
}

func TestLink(t *testing.T) {
	s := NewStream()
	a, b := NewLog(), NewLog()
	s.Attach(b, vtx("b"))
	a.Start()(nil)
	b.Link(a)
	a.Link(b) // a cycle must not matter
	b.Link(a)
	a.Output(1).Write([]byte("x"))
	s2 := NewStream()
	s2.Attach(b, vtx("b"))
	s.Close()
	s2.Close()
	want := `
	b:
	b: started
	b: started completed
	b: out1 "x"
	`
	equal(t, text(drain(t, s.Reader())), want)
	equal(t, text(drain(t, s2.Reader())), want)
}

func TestOutputLimits(t *testing.T) {
	tests := []struct {
		name   string
		limits Limits
		write  []string // "~" waits a second
		want   string
	}{
		{"none", Limits{-1, -1}, []string{strings.Repeat("x", 100), "y"}, strings.Repeat("x", 100) + "y"},
		{"size", Limits{10, -1}, []string{"12345678", "abcd", "e", "f"}, "12345678ab\n[output clipped, log limit 10B reached]\n"},
		{"speed", Limits{-1, 4}, []string{"123", "456", "78", "~", "9", "abcd"},
			"1234\n[output clipped, log limit 4B/s reached]\n9abc\n[output clipped, log limit 4B/s reached]\n"},
		{"burst", Limits{-1, 4}, []string{"1", "~", "~", "123456789"}, "1123456789"},
		{"both", Limits{6, 4}, []string{"12345", "~", "~", "6789"},
			"1234\n[output clipped, log limit 4B/s reached]\n67\n[output clipped, log limit 6B reached]\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, l := NewStream(), NewLogLimits(tt.limits)
				s.Attach(l, vtx("a"))
				w := l.Output(1)
				for _, p := range tt.write {
					if p == "~" {
						time.Sleep(time.Second)
						continue
					}
					if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
						t.Fatal(n, err)
					}
				}
				s.Close()
				var got strings.Builder
				for _, e := range drain(t, s.Reader()) {
					if e.Output != nil {
						got.Write(e.Output.Data)
					}
				}
				if got.String() != tt.want {
					t.Errorf("got %q, want %q", got.String(), tt.want)
				}
			})
		})
	}
	if got := size(DefaultSize) + " " + size(DefaultSpeed); got != "2MiB 200KiB" {
		t.Error(got)
	}
}

func TestSmallWritesJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := NewStream(), NewLog()
		s.Attach(l, vtx("a"))
		r := s.Reader()
		w := l.Output(1)
		buf := []byte("line\n")
		for range 1000 {
			w.Write(buf)
		}
		copy(buf, "XXXXX") // the writer must not have kept it
		evs, err := r.Next(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		if len(evs) > 8 {
			t.Errorf("1000 short lines made %d events", len(evs))
		}
		held := evs[len(evs)-1].Output.Data
		n := len(held)
		w.Write([]byte("after"))
		s.Close()
		var got strings.Builder
		for _, e := range append(evs, drain(t, r)...) {
			if e.Output != nil {
				got.Write(e.Output.Data)
			}
		}
		if want := strings.Repeat("line\n", 1000) + "after"; got.String() != want {
			t.Errorf("output is wrong: %d bytes, want %d", got.Len(), len(want))
		}
		if len(held) != n {
			t.Error("an event changed after it was read")
		}
	})
}

func TestManyUpdatesFewEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := NewStream(), NewLog()
		s.Attach(l, vtx("a"))
		tr := l.Track("x")
		for i := range 10000 {
			tr.Set(int64(i), 10000)
			time.Sleep(time.Millisecond)
		}
		tr.Done()
		tr.Done()
		tr.Set(0, 0)
		if n := len(s.items); n > 150 {
			t.Errorf("10 s of updates left %d events", n)
		}
		s.Close()
		equal(t, text(drain(t, s.Reader())), `
		a:
		a: line "x" 9999/10000 completed
		`)
	})
}

func TestNextGathersAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, l := NewStream(), NewLog()
		r := s.Reader()
		go func() {
			time.Sleep(time.Minute)
			s.Attach(l, vtx("a"))
			time.Sleep(50 * time.Millisecond)
			l.Cached()
			time.Sleep(time.Minute)
			l.Warn(Warning{Short: []byte("w")})
			time.Sleep(10 * time.Millisecond)
			s.Close()
		}()
		start := time.Now()
		evs, err := r.Next(t.Context(), 100*time.Millisecond)
		if err != nil || len(evs) != 2 {
			t.Fatal(text(evs), err)
		}
		if took := time.Since(start); took != time.Minute+100*time.Millisecond {
			t.Error("took", took)
		}
		evs, err = r.Next(t.Context(), time.Hour)
		if err != nil || len(evs) != 1 || evs[0].Warning == nil {
			t.Fatal(text(evs), err)
		}
		if took := time.Since(start); took > 3*time.Minute {
			t.Error("Close did not end the gathering; took", took)
		}
		if _, err := r.Next(t.Context(), 0); err != io.EOF {
			t.Error(err)
		}

		s = NewStream()
		ctx, cancel := context.WithCancel(t.Context())
		go cancel()
		if _, err := s.Reader().Next(ctx, 0); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		s.Close()
	})
}

// Several readers, writers and streams at once: every reader sees every line of every
// writer, in order.
func TestConcurrent(t *testing.T) {
	const writers, lines, streams, readers = 8, 500, 3, 3
	logs := make([]*Log, writers)
	for i := range logs {
		logs[i] = NewLogLimits(Limits{-1, -1})
	}
	var all []*Stream
	var wg, write sync.WaitGroup
	for range streams {
		s := NewStream()
		all = append(all, s)
		wg.Go(func() {
			for i, l := range logs {
				s.Attach(l, vtx(fmt.Sprint("v", i)))
			}
		})
		for range readers {
			wg.Go(func() {
				got := map[digest.Digest]*strings.Builder{}
				for _, e := range drain(t, s.Reader()) {
					if e.Output != nil {
						if got[e.Digest] == nil {
							got[e.Digest] = new(strings.Builder)
						}
						got[e.Digest].Write(e.Output.Data)
					}
				}
				var want strings.Builder
				for i := range lines {
					fmt.Fprintln(&want, i)
				}
				for i := range writers {
					b := got[digest.FromString(fmt.Sprint("v", i))]
					if b == nil || b.String() != want.String() {
						t.Errorf("writer %d: wrong output", i)
					}
				}
			})
		}
	}
	for _, l := range logs {
		write.Go(func() {
			defer l.Start()(nil)
			tr := l.Track("t")
			for i := range lines {
				fmt.Fprintln(l.Output(1), i)
				tr.Set(int64(i), lines)
			}
			tr.Done()
		})
	}
	write.Wait()
	for _, s := range all {
		for i, l := range logs {
			s.Attach(l, vtx(fmt.Sprint("v", i)))
		}
		s.Close()
	}
	wg.Wait()
}

func BenchmarkOutputLine(b *testing.B) {
	s, l := NewStream(), NewLogLimits(Limits{-1, -1})
	s.Attach(l, vtx("a"))
	w := l.Output(1)
	line := []byte(strings.Repeat("x", 79) + "\n")
	b.ReportAllocs()
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		w.Write(line)
	}
}

func BenchmarkVertices10000(b *testing.B) {
	vs := make([]Vertex, 10000)
	for i := range vs {
		vs[i] = vtx(fmt.Sprint(i), fmt.Sprint(i-1))
	}
	b.ReportAllocs()
	for b.Loop() {
		s := NewStream()
		for _, v := range vs {
			l := NewLog()
			s.Attach(l, v)
			l.Start()(nil)
		}
		s.Close()
		r := s.Reader()
		for {
			if _, err := r.Next(context.Background(), 0); err != nil {
				break
			}
		}
	}
}

func TestAWarningWaitsForItsVertex(t *testing.T) {
	s := NewStream()
	s.WarnLater("a", Warning{Short: []byte("of a")})
	s.WarnLater("b", Warning{Short: []byte("of b")})
	s.Attach(NewLog(), Vertex{Digest: "a", Name: "a"})
	rest := s.Unshown()
	s.Close()
	var got []string
	for r := s.Reader(); ; {
		events, err := r.Next(t.Context(), 0)
		if err != nil {
			break
		}
		for _, e := range events {
			if e.Warning != nil {
				got = append(got, string(e.Digest)+": "+string(e.Warning.Short))
			}
		}
	}
	if len(got) != 1 || got[0] != "a: of a" || len(rest) != 1 || string(rest[0].Short) != "of b" {
		t.Errorf("shown %q, left %v", got, rest)
	}
}
