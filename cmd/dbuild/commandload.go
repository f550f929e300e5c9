package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// lastWords is how long a command that stopped reading may take to end.
const lastWords = 5 * time.Second

// A commandLoad pipes an image into "podman load" or the like, unless the engine has it:
// then it only gets its names.
type commandLoad struct {
	path string
	name string    // of the command
	out  io.Writer // what the command prints goes here when it is done

	mu     sync.Mutex
	had    bool // the engine had the image
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	output bytes.Buffer
	done   chan struct{} // closed when the process has ended, err being set
	err    error
	broken atomic.Bool // the process does not read any more
}

var _ streamLoad = (*commandLoad)(nil)

func (l *commandLoad) open(md map[string]string) (io.WriteCloser, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.had = l.nameKnown(md); l.had {
		return nil, nil
	}
	cmd := exec.Command(l.path, "load")
	cmd.Stdout, cmd.Stderr = &l.output, &l.output
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s load: %w", l.name, err)
	}
	l.cmd, l.stdin, l.done = cmd, stdin, make(chan struct{})
	go func() { // ends with the process; wait or kill waits for it
		defer close(l.done)
		if err := cmd.Wait(); err != nil {
			if said := strings.TrimSpace(l.output.String()); said != "" {
				err = errors.New(said)
			}
			l.err = fmt.Errorf("%s load: %w", l.name, err)
		}
	}()
	return &commandInput{stdin, &l.broken}, nil
}

// A commandInput notes that a command does not read any more.
type commandInput struct {
	io.WriteCloser
	broken *atomic.Bool
}

// Write implements io.Writer.
func (c *commandInput) Write(p []byte) (int, error) {
	n, err := c.WriteCloser.Write(p)
	if err != nil {
		c.broken.Store(true)
	}
	return n, err
}

// nameKnown gives the names that md has to the image that md describes, if the engine has
// it.
func (l *commandLoad) nameKnown(md map[string]string) bool {
	for _, id := range idsOf(md) {
		if l.ask("image", "inspect", id) != nil {
			continue
		}
		for _, name := range namesOf(md) {
			if l.ask("tag", id, name) != nil {
				return false
			}
		}
		fmt.Fprintf(&l.output, "%s has the image: %s\n", l.name, id)
		_, _ = l.out.Write(l.output.Bytes())
		return true
	}
	return false
}

// ask runs a command that is answered at once if there is an engine.
func (l *commandLoad) ask(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	return exec.CommandContext(ctx, l.path, args...).Run()
}

func (l *commandLoad) known() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.had
}

func (l *commandLoad) running() chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

func (l *commandLoad) wait(context.Context) error {
	done := l.running()
	if l.known() {
		return nil
	}
	if done == nil {
		return fmt.Errorf("%s load: the daemon sent nothing", l.name)
	}
	l.stdin.Close()
	<-done
	if l.err == nil {
		_, _ = l.out.Write(l.output.Bytes())
	}
	return l.err
}

func (l *commandLoad) failure() error {
	done := l.running()
	if done == nil {
		return nil
	}
	if l.broken.Load() {
		// It is about to end, and to say why.
		select {
		case <-done:
		case <-time.After(lastWords):
		}
	}
	select {
	case <-done:
		return l.err
	default:
		return nil
	}
}

func (l *commandLoad) kill() {
	if done := l.running(); done != nil {
		_ = l.cmd.Process.Kill() // no-op if it has ended
		<-done
	}
}
