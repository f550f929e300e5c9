package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/moby/buildkit/client"
)

// outputs are where results go on this machine. Files appear under their names only when
// the whole build has succeeded.
type outputs struct {
	entries []client.ExportEntry
	files   []*outputFile
	loads   []load
	engines map[int]*engineLoad // those of loads that the daemon can ask, by exporter
}

// openOutputs checks that the results can be written, and how.
func (a *app) openOutputs(ctx context.Context, exports []buildflags.Export, c *configfile.ConfigFile) (_ *outputs, err error) {
	stores := 0
	for _, e := range exports {
		if e.Sink == buildflags.IntoContainerd || e.Sink == buildflags.Dir && e.Type == "oci" {
			stores++
		}
	}
	if stores > 1 {
		return nil, errOneStore
	}
	o := &outputs{engines: map[int]*engineLoad{}}
	defer func() {
		if err != nil {
			o.discard()
		}
	}()
	for i, e := range exports {
		entry := client.ExportEntry{Type: e.Type, Attrs: e.Attrs}
		switch e.Sink {
		case buildflags.Stdout:
			if terminal(a.stdout) {
				return nil, fmt.Errorf("the %s archive would be written to the terminal; send it to a file or a pipe", e.Type)
			}
			entry.Output = func(map[string]string) (io.WriteCloser, error) { return nopCloser{a.stdout}, nil }
		case buildflags.File:
			f, err := newOutputFile(e.Dest)
			if err != nil {
				return nil, err
			}
			o.files = append(o.files, f)
			entry.Output = f.open
		case buildflags.Dir:
			if fi, err := os.Stat(e.Dest); err == nil && !fi.IsDir() {
				return nil, fmt.Errorf("-o %s: it is a file, not a directory", e.Dest)
			}
			entry.OutputDir = e.Dest
		case buildflags.Docker:
			l, err := a.newLoad(ctx, e, c)
			if err != nil {
				return nil, err
			}
			o.loads = append(o.loads, l)
			if e, ok := l.(*engineLoad); ok {
				o.engines[i] = e
			}
			entry.Output = l.open
		case buildflags.IntoContainerd:
			l, err := a.newContainerdLoad(ctx, e)
			if err != nil {
				return nil, err
			}
			o.loads = append(o.loads, l)
			entry.OutputStore = l.store
		}
		o.entries = append(o.entries, entry)
	}
	return o, nil
}

// commit gives files their names and waits for engines.
func (o *outputs) commit(ctx context.Context) error {
	for _, l := range o.loads {
		if err := l.wait(ctx); err != nil {
			return err
		}
	}
	for _, f := range o.files {
		if err := f.commit(); err != nil {
			return err
		}
	}
	return nil
}

// err returns why this side stopped reading, if it did.
func (o *outputs) err() error {
	for _, l := range o.loads {
		if err := l.failure(); err != nil {
			return err
		}
	}
	for _, f := range o.files {
		if f.failed != nil {
			return f.failed
		}
	}
	return nil
}

// discard removes what was not committed.
func (o *outputs) discard() {
	for _, f := range o.files {
		f.discard()
	}
	for _, l := range o.loads {
		l.kill()
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// An outputFile is written beside its place and moved there when all is well.
type outputFile struct {
	path   string
	direct bool // not a regular file: written in place
	f      *os.File
	failed error
}

func newOutputFile(path string) (*outputFile, error) {
	fi, err := os.Stat(path)
	switch {
	case err == nil && fi.IsDir():
		return nil, fmt.Errorf("-o: dest %s is a directory, a file is needed", path)
	case err == nil && !fi.Mode().IsRegular():
		return &outputFile{path: path, direct: true}, nil
	}
	if dir := filepath.Dir(path); !isDirectory(dir) {
		return nil, fmt.Errorf("-o: no such directory: %s", dir)
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // replace what a link points to, not the link
	}
	return &outputFile{path: path}, nil
}

func (o *outputFile) open(map[string]string) (io.WriteCloser, error) {
	var err error
	if o.direct {
		o.f, err = os.OpenFile(o.path, os.O_WRONLY, 0)
	} else {
		o.f, err = createBeside(o.path, 0o666)
	}
	if err != nil {
		return nil, fmt.Errorf("-o: %w", err)
	}
	return o, nil
}

// Write and Close are called by the session. A failure is kept, because the daemon that
// is told of it does not know the file.
func (o *outputFile) Write(p []byte) (int, error) {
	n, err := o.f.Write(p)
	if err != nil {
		o.failed = err
	}
	return n, err
}

// Close ends the stream; commit or discard follows.
func (o *outputFile) Close() error {
	err := o.f.Close()
	if err != nil {
		o.failed = err
	}
	return err
}

func (o *outputFile) commit() error {
	if o.f == nil {
		return fmt.Errorf("-o: the daemon sent nothing for %s", o.path)
	}
	if o.failed != nil || o.direct {
		return o.failed
	}
	if err := os.Rename(o.f.Name(), o.path); err != nil {
		return err
	}
	o.f = nil
	return nil
}

func (o *outputFile) discard() {
	if o.f != nil && !o.direct {
		os.Remove(o.f.Name())
	}
}

// createBeside creates a new file in the directory of path, with the permissions that
// path is to have.
func createBeside(path string, perm os.FileMode) (*os.File, error) {
	for i := 0; ; i++ {
		name := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.%d-%d", filepath.Base(path), os.Getpid(), i))
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
		if errors.Is(err, os.ErrExist) && i < 100 {
			continue
		}
		return f, err
	}
}

func isDirectory(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && fi.IsDir()
}
