package contexthash

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"slices"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
)

func file(path, text string, mode fs.FileMode) Entry {
	return Entry{Path: path, Kind: File, Mode: mode, Sum: sha256.Sum256([]byte(text))}
}

func link(path, target string) Entry {
	return Entry{Path: path, Kind: Link, Mode: fs.ModeSymlink | 0o777, Sum: sha256.Sum256([]byte(target))}
}

func dir(path string) Entry { return Entry{Path: path, Kind: Dir, Mode: fs.ModeDir | 0o755} }

// The format that docs/context-hash.md describes, byte by byte.
func TestFormat(t *testing.T) {
	hash := func(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }
	want := "dbuild context v1\n" +
		"d 0755 - a\x00" +
		"f 0644 " + hash("x") + " a-b\x00" +
		"f 4755 " + hash("y") + " a/b\x00" +
		"l 0777 " + hash("a/b") + " l\x00"
	entries := []Entry{link("l", "a/b"), file("a/b", "y", fs.ModeSetuid|0o755), dir("a"), file("a-b", "x", 0o644)}
	if got := Tree(entries); got != digest.FromString(want) {
		t.Errorf("the digest is not that of %q", want)
	}
	if entries[0].Path != "l" {
		t.Error("the entries were reordered")
	}
	d := Definition{
		Context: "sha256:c", Dockerfile: "sha256:d", Target: "t", Frontend: "f",
		Named: map[string]string{"n": "v"}, BuildArgs: map[string]string{"B": "1\n", "A": ""}, Platforms: []string{"p2", "p1"},
	}
	want = "dbuild definition v1\ncontext 8 sha256:c\nnamed 1 n\nis 1 v\ndockerfile 8 sha256:d\ntarget 1 t\n" +
		"build-arg 1 A\nis 0 \nbuild-arg 1 B\nis 2 1\n\nplatform 2 p1\nplatform 2 p2\nfrontend 1 f\n"
	if got := d.Digest(); got != digest.FromString(want) {
		t.Errorf("the digest is not that of %q", want)
	}
}

func TestWhatCounts(t *testing.T) {
	base := []Entry{dir("d"), file("d/f", "x", 0o644), link("l", "d/f")}
	change := func(i int, f func(*Entry)) []Entry {
		out := slices.Clone(base)
		f(&out[i])
		return out
	}
	for _, c := range []struct {
		name    string
		entries []Entry
		same    bool
	}{
		{"order", []Entry{base[2], base[1], base[0]}, true},
		{"mode of a link", change(2, func(e *Entry) { e.Mode = fs.ModeSymlink }), true},
		{"executable", change(1, func(e *Entry) { e.Mode = 0o755 }), false},
		{"sticky", change(0, func(e *Entry) { e.Mode |= fs.ModeSticky }), false},
		{"content", change(1, func(e *Entry) { e.Sum[0]++ }), false},
		{"name", change(1, func(e *Entry) { e.Path = "d/g" }), false},
		{"target", change(2, func(e *Entry) { *e = link("l", "d") }), false},
		{"kind", change(2, func(e *Entry) { e.Kind = File }), false},
		{"empty directory", append(slices.Clone(base), dir("e")), false},
	} {
		if same := Tree(c.entries) == Tree(base); same != c.same {
			t.Errorf("%s: same is %t", c.name, same)
		}
	}
}

func TestArchive(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700},
		{Name: "./d/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "d/f", Typeflag: tar.TypeReg, Mode: 0o644, Size: 1, Uid: 7},
		{Name: "d/hard", Typeflag: tar.TypeLink, Linkname: "d/f"},
		{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "d/f", Mode: 0o777},
		{Name: "pipe", Typeflag: tar.TypeFifo},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	entries, other, err := Archive(&b)
	if err != nil {
		t.Fatal(err)
	}
	want := []Entry{dir("d"), file("d/f", "x", 0o644), file("d/hard", "x", 0o644), link("l", "d/f")}
	if Tree(entries) != Tree(want) || !slices.Equal(other, []string{"pipe"}) {
		t.Errorf("got %v, and besides %v", entries, other)
	}
	if _, _, err := Archive(strings.NewReader("not a tar, but long enough to be looked at" + strings.Repeat(".", 600))); err == nil {
		t.Error("what is no tar has a digest")
	}
}
