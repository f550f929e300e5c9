package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// loaders are the commands that take images as docker does, the usual one first.
var loaders = []string{"docker", "podman", "nerdctl"}

// askTimeout is how long the engine may think about a question. Without an answer it gets
// the image.
const askTimeout = 10 * time.Second

// A dockerLoad pipes an image into "docker load", unless the engine has it: then it only
// gets its names.
type dockerLoad struct {
	path string
	name string    // of the command
	out  io.Writer // what docker prints goes here when it is done

	mu     sync.Mutex
	had    bool // the engine had the image
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	output bytes.Buffer
	done   chan struct{} // closed when the process has ended, err being set
	err    error
}

func newDockerLoad(out io.Writer) (*dockerLoad, error) {
	for _, name := range loaders {
		if path, err := exec.LookPath(name); err == nil {
			return &dockerLoad{path: path, name: name, out: out}, nil
		}
	}
	return nil, fmt.Errorf("--load needs one of the commands %s, and there is none; write a file with -o type=docker,dest=FILE", strings.Join(loaders, ", "))
}

// open is told what image will come. None comes if it returns no writer.
func (l *dockerLoad) open(md map[string]string) (io.WriteCloser, error) {
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
			l.err = fmt.Errorf("%s load: %w: %s", l.name, err, strings.TrimSpace(l.output.String()))
		}
	}()
	return stdin, nil
}

// nameKnown gives the names that md has to the image that md describes, if the engine has
// it. An engine names images by their config or, with containerd, by their manifest.
func (l *dockerLoad) nameKnown(md map[string]string) bool {
	for _, key := range []string{keyConfigDigest, keyDigest} {
		id := md[key]
		if id == "" || l.ask("image", "inspect", id) != nil {
			continue
		}
		for name := range strings.SplitSeq(md["image.name"], ",") {
			if name != "" && l.ask("tag", id, name) != nil {
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
func (l *dockerLoad) ask(args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	return exec.CommandContext(ctx, l.path, args...).Run()
}

func (l *dockerLoad) known() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.had
}

func (l *dockerLoad) running() chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

func (l *dockerLoad) wait() error {
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

// failure returns why docker ended, if it has ended badly.
func (l *dockerLoad) failure() error {
	done := l.running()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return l.err
	default:
		return nil
	}
}

func (l *dockerLoad) kill() {
	if done := l.running(); done != nil {
		_ = l.cmd.Process.Kill() // no-op if it has ended
		<-done
	}
}
