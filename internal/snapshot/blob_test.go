package snapshot

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tarOf reads a layer's blob back.
func tarOf(t testing.TB, b Blob) map[string]*tar.Header {
	t.Helper()
	rc, err := b.Open(t.Context(), nil)
	must(t, err)
	defer rc.Close()
	z, err := decompressor(rc)
	must(t, err)
	defer z.Close()
	out := map[string]*tar.Header{}
	tr := tar.NewReader(z)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		must(t, err)
		out[h.Name] = h
	}
}

func TestBlobRoundTrip(t *testing.T) {
	s := open(t, "")
	base := s.layer(nil, func(root string) {
		write(t, root+"/del", "d")
		write(t, root+"/opq/old", "o")
	})
	r := s.layer(base, func(root string) {
		long := strings.Repeat("n", 200)
		write(t, root+"/"+long+"/"+long, "long")
		write(t, root+"/big", strings.Repeat("0123456789", 500_000))
		must(t, os.Link(root+"/big", root+"/big2"))
		must(t, unix.Mkfifo(root+"/pipe", 0o640))
		must(t, os.Symlink("/etc/passwd", root+"/link"))
		must(t, unix.Lsetxattr(root+"/big", "user.x", []byte{0, 1, 0xff}, 0))
		must(t, unix.Lsetxattr(root+"/big", "security.capability", []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
		must(t, os.Remove(root+"/del"))
		must(t, os.RemoveAll(root+"/opq"))
		write(t, root+"/opq/new", "n")
		must(t, os.Chown(root+"/opq/new", 100000, 200000))
	})
	for _, typ := range []string{gzipType, zstdType, noneType} {
		blobs, err := r.Blobs(t.Context(), Access{}, Compression{Type: typ, Force: true})
		must(t, err)
		if typeOf(blobs[1].MediaType) != typ || blobs[1].Size == 0 {
			t.Errorf("%s: %+v", typ, blobs[1])
		}
		hs := tarOf(t, blobs[1])
		for _, want := range []string{".wh.del", "opq/", "opq/.wh.old", "big", "big2", "pipe", "link"} {
			if hs[want] == nil {
				t.Errorf("%s: no %s in the tar", typ, want)
			}
		}
		if hs["big2"].Typeflag != tar.TypeLink || hs["big2"].Linkname != "big" {
			t.Errorf("hard link: %+v", hs["big2"])
		}
		// Pulled elsewhere, it is the same.
		other := open(t, "")
		var layers []ImageLayer
		for _, b := range blobs {
			rc, err := b.Open(t.Context(), nil)
			must(t, err)
			data, err := io.ReadAll(rc)
			must(t, err)
			rc.Close()
			other.reg.blobs[b.Digest.String()] = data
			layers = append(layers, ImageLayer{Blob: b.Descriptor, DiffID: b.DiffID, From: registryAt("x")})
		}
		pulled := other.ref(layers...)
		same(t, typ+" pulled", other.listing(pulled), s.listing(r))
		same(t, typ+" mounted", other.mounted(pulled), s.mounted(r))
	}
}

// As part of an image such a file would delete another one.
func TestNamesOfWhiteouts(t *testing.T) {
	s := open(t, "")
	r := s.layer(nil, func(root string) { write(t, root+"/d/.wh.f", "") })
	if _, err := r.Blobs(t.Context(), Access{}, Compression{}); err == nil || !strings.Contains(err.Error(), "/d/.wh.f: ") {
		t.Errorf("got %v", err)
	}
}

func TestBlobsAreDeterministic(t *testing.T) {
	var first map[string]string
	for procs := range 4 {
		old := runtime.GOMAXPROCS(procs + 1)
		s := open(t, "")
		r := s.layer(nil, func(root string) {
			for _, n := range []string{"b", "a", "c/d"} {
				write(t, root+"/"+n, strings.Repeat("some text "+n, 300_000))
			}
			for _, n := range []string{"b", "a", "c/d", "c"} {
				must(t, os.Chtimes(root+"/"+n, time.Unix(5, 0), time.Unix(1_000_000+int64(len(n)), 999)))
			}
		})
		got := map[string]string{}
		for _, typ := range []string{gzipType, zstdType, noneType} {
			b, err := r.Blobs(t.Context(), Access{}, Compression{Type: typ, Force: true})
			must(t, err)
			got[typ] = b[0].Digest.String()
		}
		runtime.GOMAXPROCS(old)
		if first == nil {
			first = got
		}
		for typ := range got {
			if got[typ] != first[typ] {
				t.Errorf("%s with %d CPUs: %s, was %s", typ, procs+1, got[typ], first[typ])
			}
		}
	}
}

func TestEpochClampsOwnLayersOnly(t *testing.T) {
	s := open(t, "")
	il := s.image(gzipType, "f=x")
	epoch := time.Unix(1_000_000, 0)
	r := s.layer(s.ref(il), func(root string) {
		write(t, root+"/new", "n")
		write(t, root+"/old", "o")
		must(t, os.Chtimes(root+"/old", time.Unix(7, 0), time.Unix(7, 0)))
	})
	plain, err := r.Blobs(t.Context(), Access{}, Compression{})
	must(t, err)
	for range 2 {
		c, err := r.Blobs(t.Context(), Access{}, Compression{Epoch: &epoch})
		must(t, err)
		if c[0].Digest != il.Blob.Digest {
			t.Error("a layer of the base image was rewritten")
		}
		if c[1].Digest == plain[1].Digest {
			t.Error("the times were not clamped")
		}
		hs := tarOf(t, c[1])
		if !hs["new"].ModTime.Equal(epoch) || hs["old"].ModTime.Unix() != 7 {
			t.Errorf("times %v, %v", hs["new"].ModTime, hs["old"].ModTime)
		}
		if c[0].Annotations[rewritten] != "" || c[1].Annotations[rewritten] != "1000000" {
			t.Errorf("annotations %v, %v", c[0].Annotations, c[1].Annotations)
		}
	}
	again, err := r.Blobs(t.Context(), Access{}, Compression{})
	must(t, err)
	if again[1].Digest != plain[1].Digest || again[1].Annotations[rewritten] != "" {
		t.Error("the clamped blob is used where no clamp is asked for")
	}
}

// Bytes that somebody wants to be the same depend on what is asked, not on what was before.
func TestEpochForgetsEarlierForms(t *testing.T) {
	epoch := time.Unix(1_000_000, 0)
	nine := 9
	want := ""
	for i, before := range [][]Compression{nil, {{Type: zstdType}}, {{Type: gzipType, Level: &nine}, {}}} {
		s := open(t, "")
		r := s.layer(nil, func(root string) { write(t, root+"/f", strings.Repeat("some text", 10000)) })
		for _, c := range before {
			c.Epoch = &epoch
			_, err := r.Blobs(t.Context(), Access{}, c)
			must(t, err)
		}
		b, err := r.Blobs(t.Context(), Access{}, Compression{Epoch: &epoch})
		must(t, err)
		if i == 0 {
			want = b[0].Digest.String()
		} else if b[0].Digest.String() != want {
			t.Errorf("after %d other exports: %s %s, want %s", len(before), b[0].MediaType, b[0].Digest, want)
		}
	}
}

func TestLevelsAndUnknownCompression(t *testing.T) {
	s := open(t, "")
	r := s.layer(nil, func(root string) { write(t, root+"/f", strings.Repeat("some text", 10000)) })
	sizes := map[int]int64{}
	for _, l := range []int{1, 9} {
		b, err := r.Blobs(t.Context(), Access{}, Compression{Level: &l, Force: true})
		must(t, err)
		sizes[l] = b[0].Size
	}
	if sizes[9] >= sizes[1] {
		t.Errorf("sizes by level: %v", sizes)
	}
	bad := 99
	for _, c := range []Compression{{Type: "lzma"}, {Level: &bad, Force: true}} {
		if _, err := r.Blobs(t.Context(), Access{}, c); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}

func TestWarmIsJoined(t *testing.T) {
	s := open(t, "")
	r := s.layer(nil, func(root string) { write(t, root+"/f", strings.Repeat("x", 1<<20)) })
	r.Warm(Compression{})
	b, err := r.Blobs(t.Context(), Access{}, Compression{})
	must(t, err)
	r.Warm(Compression{}) // nothing left to do
	again, err := r.Blobs(t.Context(), Access{}, Compression{})
	must(t, err)
	if b[0].Digest != again[0].Digest {
		t.Error("two blobs")
	}
	lazy := s.ref(s.image(gzipType, "f=x"))
	lazy.Warm(Compression{Type: zstdType})
	r.Warm(Compression{Type: "nonsense"})
	must(t, s.Close())
	s.Store = nil
	if n := s.reg.count(); n != 0 {
		t.Errorf("Warm fetched %d blobs", n)
	}
}

func TestDecompressorTakesWhatItIs(t *testing.T) {
	text := []byte(strings.Repeat("hello", 1000))
	for _, typ := range []string{gzipType, zstdType, noneType} {
		var buf bytes.Buffer
		z, err := compressor(&buf, typ, nil)
		must(t, err)
		z.Write(text)
		must(t, z.Close())
		r, err := decompressor(&buf)
		must(t, err)
		got, err := io.ReadAll(r)
		must(t, err)
		if !bytes.Equal(got, text) {
			t.Errorf("%s: other text", typ)
		}
	}
	for _, b := range []string{"BZh9", "\xfd7zXZ\x00"} {
		if _, err := decompressor(strings.NewReader(b + "rest")); err == nil || !strings.Contains(err.Error(), "not supported") {
			t.Errorf("%q: %v", b, err)
		}
	}
}
