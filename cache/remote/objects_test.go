package remote_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/cache/remote"
	"github.com/dbuild/dbuild/exporter"
	xt "github.com/dbuild/dbuild/exporter/exportertest"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker"
	bksession "github.com/moby/buildkit/session"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A shelf is a place of objects in memory.
type shelf struct {
	mu      sync.Mutex
	blobs   map[digest.Digest][]byte
	configs [][]byte
	opened  []int64 // offsets
	breaks  int     // so many reads end after half of what is left
}

func (s *shelf) Open(_ context.Context, d digest.Digest, offset int64) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[d]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	s.opened = append(s.opened, offset)
	b = b[offset:]
	if s.breaks > 0 {
		s.breaks--
		b = b[:len(b)/2]
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (s *shelf) Has(_ context.Context, d digest.Digest) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blobs[d] != nil, nil
}

func (s *shelf) Put(ctx context.Context, d ocispec.Descriptor, open func(context.Context) (io.ReadCloser, error)) error {
	if ok, _ := s.Has(ctx, d.Digest); ok {
		return nil
	}
	rc, err := open(ctx)
	if err != nil {
		return err
	}
	defer rc.Close()
	data, err := io.ReadAll(rc)
	if err != nil {
		return errors.New("the store's words for it")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[d.Digest] = data
	return nil
}

func (s *shelf) Configs(context.Context, int64) ([][]byte, error) { return s.configs, nil }

func (s *shelf) PutConfig(_ context.Context, data []byte) error {
	s.configs = [][]byte{data}
	return nil
}

// shelved is a place whose caches of type s3 are on a shelf.
func shelved(t *testing.T, s *shelf) *place {
	p := newPlace(t)
	p.cfg.Objects = map[string]remote.OpenObjects{"s3": func(a *exporter.Attrs) (remote.Objects, error) {
		if a.String("bucket") == "" {
			return nil, errors.New("no bucket is named")
		}
		return s, nil
	}}
	return p
}

var inBucket = map[string]string{"bucket": "b", "mode": "max"}

// TestObjects writes a cache where there are no manifests and reads it elsewhere, lazily.
func TestObjects(t *testing.T) {
	s := &shelf{blobs: map[digest.Digest][]byte{}}
	here := shelved(t, s)
	if _, err := here.load("s3", inBucket); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "no cache in bucket b of Amazon S3 yet") {
		t.Error(err)
	}
	base := xt.Ref(t, here.cfg.Store, nil, "a", "1")
	top := xt.Ref(t, here.cfg.Store, base, "b", strings.Repeat("2", 1<<16))
	here.export("s3", inBucket, []solver.Entry{here.entry(1, base, sum(7)), here.entry(2, top), here.entry(3, nil)}, top)
	var c struct {
		Layers []struct {
			Blob        digest.Digest
			Annotations struct {
				MediaType string
				DiffID    digest.Digest
				Size      int
				CreatedAt string
			}
		}
	}
	if err := json.Unmarshal(s.configs[0], &c); err != nil || len(c.Layers) != 2 {
		t.Fatal(string(s.configs[0]), err)
	}
	for _, l := range c.Layers {
		a := l.Annotations
		if a.MediaType != ocispec.MediaTypeImageLayerGzip || a.DiffID.Validate() != nil || a.Size != len(s.blobs[l.Blob]) || a.CreatedAt == "" {
			t.Errorf("a layer is described as %+v", l)
		}
	}

	there := shelved(t, s)
	im, err := there.load("s3", map[string]string{"bucket": "b", "whatever": "else"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok := im.Sum(solver.ID{1}, solver.Part{7}); !ok || !im.Known(solver.ID{3}) {
		t.Error("something is not known")
	}
	ref, _, err := im.Get(t.Context(), solver.ID{2})
	if err != nil || ref == nil {
		t.Fatal(ref, err)
	}
	defer ref.Release()
	if len(s.opened) > 0 {
		t.Error("blobs are read before anybody wants them")
	}
	s.breaks = 2
	if got := there.get(im, 2); got["a"] != "1" || len(got["b"]) != 1<<16 {
		t.Errorf("got %v", got)
	}
	if !slices.ContainsFunc(s.opened, func(at int64) bool { return at > 0 }) {
		t.Error("what broke was read from its beginning:", s.opened)
	}
}

// TestObjectsLost drops what is damaged or gone, and nothing else.
func TestObjectsLost(t *testing.T) {
	for name, damage := range map[string]func(s *shelf, d digest.Digest){
		"gone":     func(s *shelf, d digest.Digest) { delete(s.blobs, d) },
		"one byte": func(s *shelf, d digest.Digest) { s.blobs[d][len(s.blobs[d])/2] ^= 1 },
		"short":    func(s *shelf, d digest.Digest) { s.blobs[d] = s.blobs[d][:len(s.blobs[d])-1] },
	} {
		t.Run(name, func(t *testing.T) {
			s := &shelf{blobs: map[digest.Digest][]byte{}}
			here := shelved(t, s)
			a, b := xt.Ref(t, here.cfg.Store, nil, "a", "1"), xt.Ref(t, here.cfg.Store, nil, "b", "2")
			here.export("s3", inBucket, []solver.Entry{here.entry(1, a), here.entry(2, b)}, b)
			blobs, err := a.Blobs(t.Context(), snapshot.Access{}, snapshot.Compression{})
			if err != nil {
				t.Fatal(err)
			}
			damage(s, blobs[0].Digest)
			there := shelved(t, s)
			im, err := there.load("s3", inBucket)
			if err != nil {
				t.Fatal(err)
			}
			ref, _, err := im.Get(t.Context(), solver.ID{1})
			if err != nil || ref == nil {
				t.Fatal(ref, err)
			}
			defer ref.Release()
			_, err = ref.(*worker.Ref).Snapshot().Mount(t.Context(), snapshot.Access{})
			var lost *snapshot.LostError
			if !errors.As(err, &lost) {
				t.Fatal(err)
			}
			if got := there.get(im, 2); got["b"] != "2" {
				t.Error("the other one:", got)
			}
		})
	}
}

// TestObjectsUnreadable writes nothing that is not what its digest says, and says why in
// the words of whoever could not read it.
func TestObjectsUnreadable(t *testing.T) {
	s := &shelf{blobs: map[digest.Digest][]byte{}}
	p := shelved(t, s)
	ref, err := p.cfg.Store.Image(t.Context(), []snapshot.ImageLayer{{
		Blob:   ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("right"), Size: 5},
		DiffID: digest.FromString("plain"),
		Open: func(context.Context, bksession.Group) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader("wrong")), nil
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer ref.Release()
	x, err := remote.NewExporter(p.cfg, remote.Entry{Type: "s3", Attrs: inBucket})
	if err != nil {
		t.Fatal(err)
	}
	_, err = x.Export(t.Context(), remote.Build{Entries: []solver.Entry{p.entry(1, ref)}, Targets: []*snapshot.Ref{ref}}, p.access())
	if !errdefs.IsDataLoss(err) || len(s.blobs) > 0 || s.configs != nil {
		t.Error(err, len(s.blobs))
	}
}

// TestObjectsRefused says what is wrong before anything is built.
func TestObjectsRefused(t *testing.T) {
	p := shelved(t, &shelf{})
	for attrs, want := range map[string]string{
		"":                      "cache in Amazon S3: no bucket is named",
		"bucket=b;colour=red":   "unknown option colour",
		"bucket=b;compat=maybe": "compat=maybe",
	} {
		m := map[string]string{}
		for kv := range strings.SplitSeq(attrs, ";") {
			if k, v, ok := strings.Cut(kv, "="); ok {
				m[k] = v
			}
		}
		if _, err := remote.NewExporter(p.cfg, remote.Entry{Type: "s3", Attrs: m}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", attrs, err)
		}
	}
	if _, err := p.load("s3", nil); err == nil || !strings.Contains(err.Error(), "no bucket is named") {
		t.Error(err)
	}
}
