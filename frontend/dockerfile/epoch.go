package dockerfile

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
	"github.com/dbuild/dbuild/llb"
)

const epochArg = "SOURCE_DATE_EPOCH"

// takeEpoch reads SOURCE_DATE_EPOCH from the build args or the global scope: a number of
// seconds, or what to take the time from: "context", the name of a named context, or that of
// a stage that is nothing but a source. What has no time, as a local directory, is as if the
// argument was not given.
func (b *build) takeEpoch(ctx context.Context) error {
	v, given := b.args[epochArg]
	if !given {
		v, _ = b.global.Get(epochArg)
	}
	if sec, err := strconv.ParseInt(v, 10, 64); err == nil {
		t := time.Unix(sec, 0).UTC()
		b.epoch = &t
	} else if v != "" {
		if b.epoch, err = b.epochOf(ctx, v); err != nil {
			return err
		}
	}
	_, global := b.global.Get(epochArg)
	if b.epoch == nil {
		delete(b.args, epochArg)
		b.global.unset(epochArg)
		return nil
	}
	v = strconv.FormatInt(b.epoch.Unix(), 10)
	if given {
		b.args[epochArg] = v
	}
	if global {
		b.global.set(epochArg, v)
	}
	return nil
}

// epochOf is the time of what name names.
func (b *build) epochOf(ctx context.Context, name string) (*time.Time, error) {
	if name == contextLocal {
		return b.loader.origin.time(ctx, b.loader)
	}
	if c, err := b.namedContext(name, nil); err == nil && c != nil {
		from, err := remoteSource(c.value)
		if err != nil {
			return nil, fmt.Errorf("context %s: %w", c.key, err)
		}
		return from.time(ctx, b.loader)
	}
	for _, s := range b.file.Stages {
		if s.From.Name != "" && strings.EqualFold(s.From.Name, name) {
			t, err := b.epochOfStage(ctx, s)
			return t, parser.WithLocation(err, s.From.Ranges)
		}
	}
	return nil, fmt.Errorf("invalid SOURCE_DATE_EPOCH: %s", name)
}

// epochOfStage is the time of a stage that only fetches something.
func (b *build) epochOfStage(ctx context.Context, s *instruction.Stage) (*time.Time, error) {
	var add *instruction.Add
	if len(s.Body) == 1 {
		add, _ = s.Body[0].(*instruction.Add)
	}
	if s.From.Base == scratch && add != nil && len(add.Sources) == 1 && len(add.Documents) == 0 {
		if from, err := remoteSource(add.Sources[0]); err == nil && from != nil {
			return from.time(ctx, b.loader)
		}
	}
	return nil, errors.New("SOURCE_DATE_EPOCH stage does not meet source-only requirements: FROM scratch and one ADD of a URL or a git repository")
}

// An origin is where files come from that are not the client's. A nil origin has no time.
type origin struct {
	git *gitRef
	url string
}

// remoteSource is nil if ref is neither a URL nor a git repository.
func remoteSource(ref string) (*origin, error) {
	g, err := parseGitRef(ref)
	switch {
	case err != nil:
		return nil, err
	case g != nil && !g.ambiguous:
		return &origin{git: g}, nil
	case strings.HasPrefix(ref, "http://"), strings.HasPrefix(ref, "https://"):
		return &origin{url: ref}, nil
	}
	return nil, nil
}

// time is that of the commit, that of the download as the server said it, or that of the
// newest file in the downloaded archive.
func (o *origin) time(ctx context.Context, l *loader) (*time.Time, error) {
	const name = "context"
	switch {
	case o == nil:
		return nil, nil
	case o.git != nil:
		g := *o.git
		g.mtime = "commit"
		ref, err := l.solve(ctx, l.opts.gitSource(&g, llb.Meta{Name: "[internal] load git source " + g.remote}))
		if err != nil {
			return nil, err
		}
		return modTime(ctx, ref, "/")
	}
	ref, err := l.solve(ctx, httpSource(o.url, name, "", llb.Meta{Name: "[internal] load remote build context"}))
	if err != nil {
		return nil, err
	}
	if t, err := modTime(ctx, ref, name); t != nil || err != nil {
		return t, err
	}
	return archiveTime(bufio.NewReaderSize(&refReader{ctx: ctx, ref: ref, name: name}, 1<<20)), nil
}

// modTime is nil for a file whose time nobody knew.
func modTime(ctx context.Context, ref frontend.Ref, name string) (*time.Time, error) {
	st, err := ref.StatFile(ctx, name)
	if err != nil || st.ModTime <= 0 {
		return nil, err
	}
	t := time.Unix(0, st.ModTime).UTC().Truncate(time.Second)
	return &t, nil
}

// archiveTime is the newest time in an archive, nil if it is none that can be read.
func archiveTime(r *bufio.Reader) *time.Time {
	files, done := decompress(r)
	defer done()
	var newest *time.Time
	tr := tar.NewReader(files)
	for {
		h, err := tr.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return newest
			}
			return nil
		}
		if t := h.ModTime.UTC().Truncate(time.Second); newest == nil || t.After(*newest) {
			newest = &t
		}
	}
}

func decompress(r *bufio.Reader) (files io.Reader, done func()) {
	head, _ := r.Peek(4)
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b\x08")):
		if z, err := gzip.NewReader(r); err == nil {
			return z, func() { z.Close() }
		}
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		if z, err := zstd.NewReader(r); err == nil {
			return z, z.Close
		}
	case bytes.HasPrefix(head, []byte("BZh")):
		return bzip2.NewReader(r), func() {}
	}
	return r, func() {}
}

// A refReader reads a file of a ref from the beginning.
type refReader struct {
	ctx    context.Context // of the one who reads, who is in the call that made this
	ref    frontend.Ref
	name   string
	offset int64
}

func (r *refReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	data, err := r.ref.ReadFile(r.ctx, r.name, r.offset, int64(len(p)))
	if err != nil {
		return 0, err
	}
	if len(data) == 0 {
		return 0, io.EOF
	}
	r.offset += int64(len(data))
	return copy(p, data), nil
}
