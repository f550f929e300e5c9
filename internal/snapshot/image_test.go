package snapshot

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/registry"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// entry is a tar entry: "name", "name/", "name=content", "name->target".
func makeTar(t testing.TB, entries ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		h := &tar.Header{Name: e, Mode: 0o644, Typeflag: tar.TypeReg}
		body := ""
		if n, b, ok := strings.Cut(e, "="); ok {
			h.Name, body = n, b
			h.Size = int64(len(b))
		} else if n, target, ok := strings.Cut(e, "->"); ok {
			h.Name, h.Linkname, h.Typeflag = n, target, tar.TypeSymlink
		} else if strings.HasSuffix(e, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		if strings.HasPrefix(e, "tmp/") && h.Typeflag == tar.TypeDir {
			h.Mode = 0o1777
		}
		must(t, tw.WriteHeader(h))
		_, err := tw.Write([]byte(body))
		must(t, err)
	}
	must(t, tw.Close())
	return buf.Bytes()
}

// image puts a layer with these entries into the registry.
func (s *storeTest) image(typ string, entries ...string) ImageLayer {
	s.t.Helper()
	plain := makeTar(s.t, entries...)
	var buf bytes.Buffer
	z, err := compressor(&buf, typ, nil)
	must(s.t, err)
	_, err = z.Write(plain)
	must(s.t, err)
	must(s.t, z.Close())
	d := digest.FromBytes(buf.Bytes())
	s.reg.mu.Lock()
	s.reg.blobs[d.String()] = buf.Bytes()
	s.reg.mu.Unlock()
	return ImageLayer{
		Blob:   ocispec.Descriptor{MediaType: ociTypes[typ], Digest: d, Size: int64(buf.Len())},
		DiffID: digest.FromBytes(plain),
		From:   []registry.Location{{Repo: "reg/app"}},
		Desc:   Desc{Description: "pulled from reg/app"},
	}
}

func (s *storeTest) ref(layers ...ImageLayer) *Ref {
	s.t.Helper()
	r, err := s.Image(s.t.Context(), layers)
	must(s.t, err)
	s.t.Cleanup(r.Release)
	return r
}

func TestImageLayersArePromisesUntilRead(t *testing.T) {
	modes(t, func(t *testing.T, mode string) {
		s := open(t, mode)
		layers := []ImageLayer{
			s.image(gzipType, "etc/", "etc/a=1", "etc/b=2", "dir/", "dir/x=x", "tmp/"),
			s.image(zstdType, "etc/", "etc/a=3", "etc/.wh.b", "dir/", "dir/.wh..wh..opq", "dir/y=y", "tmp/f=f"),
			s.image(noneType, "link->etc", "etc/c=4"),
		}
		r := s.ref(layers...)
		blobs, err := r.Blobs(t.Context(), Access{}, Compression{})
		must(t, err)
		for i, b := range blobs {
			if b.Digest != layers[i].Blob.Digest || b.Local || !slices.Equal(b.From, layers[i].From) || b.DiffID != layers[i].DiffID {
				t.Errorf("blob %d: %+v", i, b)
			}
		}
		if n := s.reg.count(); n != 0 {
			t.Errorf("%d blobs were fetched for nothing", n)
		}
		// Restart: where they are is remembered.
		ids := r.LayerIDs()
		s.reopen()
		r, err = s.Load(t.Context(), ids)
		must(t, err)
		defer r.Release()
		want := []string{
			`dir drwxr-xr-x 0:0`,
			`dir/y -rw-r--r-- 0:0 "y"`,
			`etc drwxr-xr-x 0:0`,
			`etc/a -rw-r--r-- 0:0 "3"`,
			`etc/c -rw-r--r-- 0:0 "4"`,
			`link Lrwxrwxrwx 0:0 -> etc`,
			`tmp dtrwxrwxrwx 0:0`, // the second layer does not speak of tmp itself
			`tmp/f -rw-r--r-- 0:0 "f"`,
		}
		got := s.listing(r)
		want[5] = strings.Replace(want[5], "Lrwxrwxrwx", strings.Fields(got[5])[1], 1)
		same(t, "view", got, want)
		same(t, "mount", s.mounted(r), want)
		if n := s.reg.count(); n != 3 {
			t.Errorf("%d fetches", n)
		}
		if recs, err := s.Usage(t.Context(), nil); err != nil || recs[0].Size == 0 || recs[0].RemoteSize != 0 {
			t.Errorf("usage: %+v, %v", recs, err)
		}
		if _, err := s.Content().Info(t.Context(), layers[0].Blob.Digest); err == nil {
			t.Error("a copy of the blob was kept")
		}
	})
}

func TestLayersAreSharedByDiffID(t *testing.T) {
	s := open(t, "")
	local := s.layer(nil, func(root string) { write(t, root+"/f", "x") })
	blobs, err := local.Blobs(t.Context(), Access{}, Compression{})
	must(t, err)
	for range 2 {
		got := s.ref(ImageLayer{Blob: blobs[0].Descriptor, DiffID: blobs[0].DiffID, From: []registry.Location{{Repo: "reg/pushed"}}})
		if got.ID() != local.ID() {
			t.Fatal("the image does not share the layer it was made from")
		}
		b, err := got.Blobs(t.Context(), Access{}, Compression{})
		must(t, err)
		if len(b[0].From) != 1 || b[0].From[0].Repo != "reg/pushed" || !b[0].Local {
			t.Errorf("location was not learnt: %+v", b[0])
		}
		by, err := s.LayersOf(t.Context(), []digest.Digest{blobs[0].DiffID})
		must(t, err)
		if by.ID() != local.ID() {
			t.Error("LayersOf finds another layer")
		}
		by.Release()
		s.reopen() // and from the database
		local, err = s.Load(t.Context(), local.LayerIDs())
		must(t, err)
		defer local.Release()
	}
	if _, err := s.LayersOf(t.Context(), []digest.Digest{dgstOf("other")}); !errdefs.IsNotFound(err) {
		t.Errorf("LayersOf unknown: %v", err)
	}
}

func TestEachImageKeepsItsBlob(t *testing.T) {
	s := open(t, "")
	a, b := s.image(gzipType, "f=x"), s.image(zstdType, "f=x")
	ra, rb := s.ref(a), s.ref(b)
	if ra.ID() != rb.ID() {
		t.Fatal("same files, other layers")
	}
	for _, c := range []struct {
		r    *Ref
		want ImageLayer
	}{{ra, a}, {rb, b}} {
		top := s.layer(c.r, func(root string) {})
		for _, r := range []*Ref{c.r, top, s.Merge(c.r)} {
			blobs, err := r.Blobs(t.Context(), Access{}, Compression{Type: typeOf(c.want.Blob.MediaType)})
			must(t, err)
			if blobs[0].Digest != c.want.Blob.Digest {
				t.Errorf("blob %s, the image has %s", blobs[0].Digest, c.want.Blob.Digest)
			}
		}
	}
}

func TestConcurrentReadersFetchOnce(t *testing.T) {
	s := open(t, "")
	var layers []ImageLayer
	for i := range 8 {
		layers = append(layers, s.image(gzipType, fmt.Sprintf("f%d=x", i)))
	}
	var wg sync.WaitGroup
	for range 8 {
		r := s.ref(layers...)
		wg.Go(func() {
			m, err := r.Mount(t.Context(), Access{})
			if err != nil {
				t.Error(err)
				return
			}
			if err := m.Unmount(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := s.reg.count(); n != len(layers) {
		t.Errorf("%d fetches of %d layers", n, len(layers))
	}
}

func TestDamagedBlobs(t *testing.T) {
	flip := func(b []byte) []byte { b[len(b)/2] ^= 1; return b }
	for name, c := range map[string]struct {
		spoil func(n int, b []byte) []byte
		ok    bool
		gets  int
	}{
		"once flipped": {func(n int, b []byte) []byte {
			if n == 1 {
				return flip(b)
			}
			return b
		}, true, 2},
		"always flipped": {func(n int, b []byte) []byte { return flip(b) }, false, 2},
		"once short": {func(n int, b []byte) []byte {
			if n == 1 {
				return b[:len(b)/2]
			}
			return b
		}, true, 2},
		"once long": {func(n int, b []byte) []byte {
			if n == 1 {
				return append(b, "more"...)
			}
			return b
		}, true, 2},
		"always long": {func(n int, b []byte) []byte { return append(b, "more"...) }, false, 2},
		"empty":       {func(n int, b []byte) []byte { return nil }, false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, "")
			il := s.image(gzipType, "f="+strings.Repeat("text", 1000))
			s.reg.spoil = c.spoil
			r := s.ref(il)
			_, err := r.View(t.Context(), Access{})
			var lost *LostError
			switch {
			case c.ok && err != nil:
				t.Error(err)
			case !c.ok && (!errors.As(err, &lost) || !errors.Is(err, errCorrupt)):
				t.Errorf("error: %v", err)
			}
			if n := s.reg.count(); n != c.gets {
				t.Errorf("%d fetches, want %d", n, c.gets)
			}
			// No fault is remembered.
			s.reg.spoil = nil
			if _, err := r.View(t.Context(), Access{}); err != nil {
				t.Errorf("afterwards: %v", err)
			}
		})
	}
}

func TestWrongDiffIDIsRefused(t *testing.T) {
	s := open(t, "")
	il := s.image(gzipType, "f=x")
	il.DiffID = dgstOf("something else")
	_, err := s.ref(il).View(t.Context(), Access{})
	var lost *LostError
	if !errors.As(err, &lost) || !strings.Contains(err.Error(), "its image says") {
		t.Fatalf("error: %v", err)
	}
}

func TestVanishedBlobIsLost(t *testing.T) {
	s := open(t, "")
	il := s.image(gzipType, "f=x")
	r := s.ref(il)
	delete(s.reg.blobs, il.Blob.Digest.String())
	_, err := r.View(t.Context(), Access{})
	var lost *LostError
	if !errors.As(err, &lost) || lost.LayerID != r.LayerIDs()[0] || !errdefs.IsNotFound(lost.Err) {
		t.Fatalf("view: %v", err)
	}
	blobs, err := r.Blobs(t.Context(), Access{}, Compression{})
	must(t, err)
	if _, err := blobs[0].Open(t.Context(), nil); !errors.As(err, &lost) {
		t.Fatalf("open: %v", err)
	}
	if _, err := r.Blobs(t.Context(), Access{}, Compression{Type: zstdType, Force: true}); !errors.As(err, &lost) {
		t.Fatalf("convert: %v", err)
	}
	if _, err := s.Load(t.Context(), []string{"nope"}); !errdefs.IsNotFound(err) {
		t.Fatalf("load: %v", err)
	}
}

func TestBlobOfAClientIsKept(t *testing.T) {
	s := open(t, "")
	il := s.image(gzipType, "f=x")
	data := s.reg.blobs[il.Blob.Digest.String()]
	il.From = nil
	opened := 0
	il.Open = func(context.Context, bksession.Group) (io.ReadCloser, error) {
		opened++
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	r := s.ref(il)
	_, err := r.View(t.Context(), Access{})
	must(t, err)
	ids := r.LayerIDs()
	s.reopen()
	r, err = s.Load(t.Context(), ids)
	must(t, err)
	defer r.Release()
	blobs, err := r.Blobs(t.Context(), Access{}, Compression{})
	must(t, err)
	if !blobs[0].Local || opened != 1 {
		t.Errorf("blob %+v, opened %d times", blobs[0], opened)
	}
	rc, err := blobs[0].Open(t.Context(), nil)
	must(t, err)
	defer rc.Close()
	got, err := io.ReadAll(rc)
	must(t, err)
	if !bytes.Equal(got, data) {
		t.Error("other bytes")
	}
}

// TestDamagedElsewhere reads a layer from its registry if a cache that has it, too, is
// damaged.
func TestDamagedElsewhere(t *testing.T) {
	for name, open1 := range map[string]func(data []byte) (io.Reader, error){
		"flipped": func(b []byte) (io.Reader, error) {
			b = bytes.Clone(b)
			b[len(b)/2] ^= 1
			return bytes.NewReader(b), nil
		},
		"breaks": func(b []byte) (io.Reader, error) {
			return io.MultiReader(bytes.NewReader(b[:len(b)/2]), iotest.ErrReader(errors.New("broken"))), nil
		},
		"refuses": func([]byte) (io.Reader, error) { return nil, errors.New("broken") },
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, "")
			il := s.image(gzipType, "f=x")
			data := s.reg.blobs[il.Blob.Digest.String()]
			il.Open = func(context.Context, bksession.Group) (io.ReadCloser, error) {
				r, err := open1(data)
				return io.NopCloser(r), err
			}
			r := s.ref(il)
			if _, err := r.Blobs(t.Context(), Access{}, Compression{Type: zstdType, Force: true}); err != nil {
				t.Error("convert:", err)
			}
			s = open(t, "")
			s.reg.blobs[il.Blob.Digest.String()] = data
			if got := s.listing(s.ref(il)); len(got) != 1 {
				t.Errorf("files: %v", got)
			}
		})
	}
}

func TestForceConvertsAndLayerFilesAreNotMade(t *testing.T) {
	s := open(t, "")
	il := s.image(gzipType, "f="+strings.Repeat("text", 10000))
	r := s.ref(il)
	blobs, err := r.Blobs(t.Context(), Access{}, Compression{Type: zstdType, Force: true, DockerMediaTypes: true})
	must(t, err)
	b := blobs[0]
	if b.DiffID != il.DiffID || b.Digest == il.Blob.Digest || !b.Local || b.MediaType != dockerTypes[zstdType] {
		t.Errorf("blob: %+v", b)
	}
	if r.layers[0].here() != "" {
		t.Error("it was unpacked")
	}
	again, err := r.Blobs(t.Context(), Access{}, Compression{Type: zstdType, Force: true})
	must(t, err)
	if again[0].Digest != b.Digest || s.reg.count() != 1 {
		t.Error("it was converted twice")
	}
	// Without Force the image's own blob is used.
	own, err := r.Blobs(t.Context(), Access{}, Compression{Type: gzipType})
	must(t, err)
	if own[0].Digest != il.Blob.Digest {
		t.Errorf("blob: %+v", own[0])
	}
}

func TestHostileLayers(t *testing.T) {
	for name, entries := range map[string][]string{
		"absolute link":         {"d->/etc", "d/passwd=evil"},
		"dotdot":                {"../../evil=x", "/abs=x"},
		"whiteout of parent":    {".wh...=", "a/.wh..=", "d/", "d/.wh...="},
		"opaque through link":   {"d->/etc", "d/.wh..wh..opq="},
		"whiteout through link": {"d->/etc", "d/.wh.passwd="},
		"file then dir":         {"x=1", "x/", "x/y=2"},
		"dir then file":         {"x/", "x/y=2", "x=1"},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, "")
			r := s.ref(s.image(gzipType, entries...))
			v, err := r.View(t.Context(), Access{})
			if err != nil {
				return // refused: just as well
			}
			for _, line := range listing(t, v) {
				if strings.HasPrefix(line, "..") {
					t.Error(line)
				}
			}
			for _, p := range []string{"../x", "a/../../x", "d/../../etc/passwd", ".."} {
				if _, err := v.Lstat(p); err == nil {
					t.Errorf("%s was found", p)
				}
			}
		})
	}
	s := open(t, "")
	v, err := s.ref(s.image(gzipType, "etc->/etc")).View(t.Context(), Access{})
	must(t, err)
	if _, err := v.Lstat("etc/passwd"); err == nil {
		t.Error("a link out of the tree was followed")
	}
	if _, err := v.Open("etc/passwd"); err == nil {
		t.Error("a link out of the tree was followed")
	}
}

func TestWhiteoutThenDirectoryHidesWhatWasBelow(t *testing.T) {
	s := open(t, "")
	r := s.ref(
		s.image(gzipType, "d/", "d/old=1"),
		s.image(gzipType, ".wh.d=", "d/", "d/new=2"),
	)
	want := []string{`d drwxr-xr-x 0:0`, `d/new -rw-r--r-- 0:0 "2"`}
	same(t, "view", s.listing(r), want)
	same(t, "mount", s.mounted(r), want)
}

func TestCancelledReaderDoesNotDisturbOthers(t *testing.T) {
	s := open(t, "")
	il := s.image(gzipType, "f=x")
	started, release := make(chan struct{}), make(chan struct{})
	il.From = nil
	data := s.reg.blobs[il.Blob.Digest.String()]
	il.Open = func(ctx context.Context, _ bksession.Group) (io.ReadCloser, error) {
		close(started)
		select {
		case <-release:
			return io.NopCloser(bytes.NewReader(data)), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	r := s.ref(il)
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { _, err := r.View(ctx, Access{}); first <- err }()
	<-started
	go func() { _, err := r.View(t.Context(), Access{}); second <- err }()
	for len(r.layers[0].files.list()) < 2 {
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	close(release)
	if err := <-second; err != nil {
		t.Errorf("the other: %v", err)
	}
}
