package contexthash

import (
	"archive/tar"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
)

// Archive lists the context in a tar that has each path once, parents and targets of hard
// links first, as the tar exporter writes it. Other is what does not count.
func Archive(r io.Reader) (entries []Entry, other []string, err error) {
	tr := tar.NewReader(r)
	sums := map[string]Entry{}
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return entries, other, nil
		}
		if err != nil {
			return nil, nil, err
		}
		name := clean(h.Name)
		if name == "" {
			continue
		}
		e := Entry{Path: name, Mode: h.FileInfo().Mode()}
		var counts bool
		switch e.Kind, counts = KindOf(e.Mode); {
		case h.Typeflag == tar.TypeLink:
			first, ok := sums[clean(h.Linkname)]
			if !ok {
				return nil, nil, fmt.Errorf("%s is a link to %s, which is not before it in the archive", h.Name, h.Linkname)
			}
			e = first
			e.Path = name
		case !counts:
			other = append(other, name)
			continue
		case e.Kind == Link:
			e.Sum = sha256.Sum256([]byte(h.Linkname))
		case e.Kind == File:
			if e.Sum, err = Content(tr); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", h.Name, err)
			}
		}
		if e.Kind == File {
			sums[name] = e
		}
		entries = append(entries, e)
	}
}

func clean(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// Content returns the sum of a file that r reads.
func Content(r io.Reader) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	if _, err := io.Copy(h, r); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}
