package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"path"
	"time"
)

// made is the age of everything in a stand-in, so that making it again gives the same.
var made = time.Date(2023, 5, 18, 0, 0, 0, 0, time.UTC)

// A layer is a tar archive in the making. The first error stays and is told by bytes.
type layer struct {
	buf  bytes.Buffer
	tar  *tar.Writer
	seen map[string]bool
	err  error
}

func newLayer() *layer {
	l := &layer{seen: map[string]bool{}}
	l.tar = tar.NewWriter(&l.buf)
	return l
}

func (l *layer) add(h *tar.Header, data []byte) {
	if l.err != nil || l.seen[h.Name] {
		return
	}
	l.seen[h.Name] = true
	h.ModTime, h.Size, h.Format = made, int64(len(data)), tar.FormatPAX
	if l.err = l.tar.WriteHeader(h); l.err == nil {
		_, l.err = l.tar.Write(data)
	}
}

// dir adds a directory and those above it.
func (l *layer) dir(name string, mode int64, owner int) {
	if up := path.Dir(name); up != "." {
		l.dir(up, 0o755, 0)
	}
	l.add(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode, Uid: owner, Gid: owner}, nil)
}

func (l *layer) dirs(names ...string) {
	for _, n := range names {
		l.dir(n, 0o755, 0)
	}
}

func (l *layer) file(name string, data []byte, mode int64) {
	if up := path.Dir(name); up != "." {
		l.dir(up, 0o755, 0)
	}
	l.add(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}, data)
}

func (l *layer) text(name, text string) { l.file(name, []byte(text), 0o644) }

func (l *layer) hardlink(name, target string) {
	l.add(&tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o755}, nil)
}

func (l *layer) symlink(name, target string) {
	l.add(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}, nil)
}

// bytes is the finished archive.
func (l *layer) bytes() ([]byte, error) {
	if l.err == nil {
		l.err = l.tar.Close()
	}
	return l.buf.Bytes(), l.err
}

func gzipped(data []byte) ([]byte, error) {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	err := w.Close()
	return buf.Bytes(), err
}
