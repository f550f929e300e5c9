package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/suggest"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
	digest "github.com/opencontainers/go-digest"
)

var progressModes = []string{"auto", "none", "plain", "quiet", "rawjson", "tty"}

// progressMode returns how progress is shown: by -q, --progress, BUILDKIT_PROGRESS.
func (a *app) progressMode(f *buildflags.Flags) (string, error) {
	mode, from := f.Progress, "--progress"
	if mode == "" {
		if v, _ := a.lookup("BUILDKIT_PROGRESS"); v != "" {
			mode, from = v, "BUILDKIT_PROGRESS"
		}
	}
	if f.Quiet && mode != "none" {
		return "quiet", nil
	}
	if mode == "" {
		return "auto", nil
	}
	if !slices.Contains(progressModes, mode) {
		hint := ""
		if s := suggest.Nearest(mode, progressModes); s != "" {
			hint = fmt.Sprintf(" (did you mean %s?)", s)
		}
		return "", usagef("%s %s: unknown%s; there are %s", from, mode, hint, strings.Join(progressModes, ", "))
	}
	return mode, nil
}

// progress shows the build's events and remembers what is wanted at its end.
type progress struct {
	updates  chan *client.SolveStatus // for the sender, which closes it
	done     chan struct{}
	mode     string
	debug    bool
	warnings []client.VertexWarning
	tail     tail
	failed   map[string]string // names of the steps that failed, by digest
	stopped  []string          // names of those that were at work when the build was canceled
}

func (a *app) startProgress(mode string, debug bool) (*progress, error) {
	display := progressui.DisplayMode(mode)
	if mode == "none" {
		display = progressui.QuietMode
	}
	d, err := progressui.NewDisplay(a.stderr, display)
	if err != nil {
		return nil, fmt.Errorf("--progress=%s: standard error is not a terminal", mode)
	}
	p := &progress{
		updates: make(chan *client.SolveStatus), done: make(chan struct{}),
		mode: mode, debug: debug, tail: tail{steps: map[digest.Digest]*stepTail{}}, failed: map[string]string{},
	}
	shown := make(chan *client.SolveStatus)
	go func() { // ends when the sender closes updates
		defer close(shown)
		for s := range p.updates {
			if mode == "quiet" {
				p.tail.add(s)
			}
			for _, v := range s.Vertexes {
				if v.Error != "" {
					p.failed[v.Digest.String()] = v.Name
				}
				if v.Started != nil && strings.HasSuffix(v.Error, context.Canceled.Error()) && !slices.Contains(p.stopped, v.Name) {
					p.stopped = append(p.stopped, v.Name)
				}
			}
			p.warnings = appendWarnings(p.warnings, s.Warnings)
			shown <- s
		}
	}()
	go func() {
		defer close(p.done)
		// The display goes on when the build is canceled: it shows what ends then.
		_, err := d.UpdateFrom(context.Background(), shown)
		for range shown {
			_ = err // a display that gave up must not stop the build
		}
	}()
	return p, nil
}

// wait returns when everything has been shown.
func (p *progress) wait() { <-p.done }

// maxWarnings bounds what is kept for the end.
const maxWarnings = 1000

func appendWarnings(all []client.VertexWarning, more []*client.VertexWarning) []client.VertexWarning {
	for _, w := range more {
		if len(all) < maxWarnings {
			all = append(all, *w)
		}
	}
	return all
}

// printWarnings prints a summary when the build has ended.
func (p *progress) printWarnings(w io.Writer) {
	if len(p.warnings) == 0 || p.mode == "quiet" || p.mode == "none" || p.mode == "rawjson" {
		return
	}
	plural, expand := "s", " (use -D to expand)"
	if len(p.warnings) == 1 {
		plural = ""
	}
	if p.debug {
		expand = ""
	}
	fmt.Fprintf(w, "\n %d warning%s found%s:\n", len(p.warnings), plural, expand)
	for _, wn := range p.warnings {
		fmt.Fprintf(w, " - %s\n", wn.Short)
		if !p.debug {
			continue
		}
		for _, d := range wn.Detail {
			fmt.Fprintf(w, "   %s\n", d)
		}
		if wn.URL != "" {
			fmt.Fprintf(w, "   More info: %s\n", wn.URL)
		}
	}
}

// printTail prints the end of the log of what failed, where the display has not.
func (p *progress) printTail(w io.Writer) {
	if p.mode == "quiet" {
		p.tail.print(w)
	}
}

// tail keeps the last lines of every step that has not succeeded.
type tail struct {
	steps map[digest.Digest]*stepTail
	order []digest.Digest
}

const (
	tailLines = 10
	tailWidth = 4096 // bytes of a line that are kept
)

type stepTail struct {
	name   string
	failed bool
	lines  [][]byte
	open   bool // the last line has not ended
}

func (t *tail) step(d digest.Digest) *stepTail {
	s := t.steps[d]
	if s == nil {
		s = &stepTail{}
		t.steps[d] = s
		t.order = append(t.order, d)
	}
	return s
}

func (t *tail) add(s *client.SolveStatus) {
	for _, l := range s.Logs {
		t.step(l.Vertex).write(l.Data)
	}
	for _, v := range s.Vertexes {
		st := t.step(v.Digest)
		st.name = v.Name
		if v.Error != "" {
			st.failed = !strings.HasSuffix(v.Error, context.Canceled.Error())
		} else if v.Completed != nil {
			st.lines = nil
		}
	}
}

func (s *stepTail) write(data []byte) {
	for len(data) > 0 {
		line, rest, ended := bytes.Cut(data, []byte("\n"))
		if s.open && len(s.lines) > 0 {
			last := &s.lines[len(s.lines)-1]
			*last = append(*last, line[:min(len(line), max(0, tailWidth-len(*last)))]...)
		} else {
			s.lines = append(s.lines, bytes.Clone(line[:min(len(line), tailWidth)]))
		}
		if len(s.lines) > tailLines {
			s.lines = slices.Delete(s.lines, 0, len(s.lines)-tailLines)
		}
		s.open = !ended
		data = rest
	}
}

func (t *tail) print(w io.Writer) {
	for _, d := range t.order {
		s := t.steps[d]
		if !s.failed || len(s.lines) == 0 {
			continue
		}
		fmt.Fprintf(w, "------\n > %s:\n", s.name)
		for _, l := range s.lines {
			fmt.Fprintf(w, "%s\n", bytes.TrimSuffix(l, []byte("\r")))
		}
		fmt.Fprintln(w, "------")
	}
}
