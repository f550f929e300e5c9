package snapshot

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// descriptions of what Usage lists, sorted.
func (s *storeTest) usage(filter ...string) []string {
	s.t.Helper()
	recs, err := s.Usage(s.t.Context(), filter)
	must(s.t, err)
	var out []string
	for _, r := range recs {
		out = append(out, r.Description)
	}
	slices.Sort(out)
	return out
}

func (s *storeTest) prune(o PruneOptions) []string {
	s.t.Helper()
	var out []string
	must(s.t, s.Prune(s.t.Context(), o, func(r Record) { out = append(out, r.Description) }))
	slices.Sort(out)
	s.check()
	return out
}

// put makes a layer of size bytes that nobody holds.
func (s *storeTest) put(parent *Ref, name, typ string, size int) *Ref {
	s.t.Helper()
	d, err := s.NewDraft(s.t.Context(), parent, Desc{Description: name, Type: typ})
	must(s.t, err)
	must(s.t, os.WriteFile(d.Upper()+"/"+name, make([]byte, size), 0o644))
	r, err := d.Commit(s.t.Context())
	must(s.t, err)
	r.Release()
	return r
}

func TestUsageFilters(t *testing.T) {
	s := open(t, "")
	base := s.put(nil, "base", TypeRegular, 10000)
	s.put(base, "child", TypeRegular, 1)
	s.put(nil, "hidden", TypeInternal, 1)
	s.ref(s.image(gzipType, "f=x"))
	must(t, s.dir("k", Shared, nil).Close())
	for filter, want := range map[string][]string{
		"":                           {"base", "cache k", "child", "hidden", "pulled from reg/app"},
		"type==internal":             {"hidden"},
		"type==exec.cachemount":      {"cache k"},
		"mutable":                    {"cache k"},
		"immutable,type!=internal":   {"base", "child", "pulled from reg/app"},
		"inuse":                      {"pulled from reg/app"},
		"shared":                     {"base"},
		"private,description~=chil":  {"child"},
		`parents~="."`:               {"child"},
		`description~="^(base|hid)"`: {"base", "hidden"},
	} {
		got := s.usage(filter)
		if filter == "" {
			got = s.usage()
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", filter, got, want)
		}
	}
	if got := s.usage("type==internal", "mutable"); len(got) != 2 {
		t.Errorf("two filters: %q", got)
	}
	if _, err := s.Usage(t.Context(), []string{"=="}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad filter: %v", err)
	}
	recs, err := s.Usage(t.Context(), []string{"description==base"})
	must(t, err)
	if recs[0].Size < 10000 || recs[0].LastUsed == nil || recs[0].UsageCount == 0 {
		t.Errorf("record: %+v", recs[0])
	}
	recs, err = s.Usage(t.Context(), []string{"inuse"})
	must(t, err)
	if recs[0].Size != 0 || recs[0].RemoteSize == 0 {
		t.Errorf("promise: %+v", recs[0])
	}
}

func TestPruneTakesUnusedOldestFirst(t *testing.T) {
	s := open(t, "")
	a := s.put(nil, "a", TypeRegular, 100_000)
	b := s.put(a, "b", TypeRegular, 100_000)
	s.put(b, "c", TypeRegular, 100_000)
	other := s.put(nil, "other", TypeRegular, 100_000)
	s.put(nil, "internal", TypeInternal, 100_000)
	frontend := s.put(nil, "frontend", TypeFrontend, 1)
	_ = frontend

	if got := s.prune(PruneOptions{KeepDuration: time.Hour}); len(got) != 0 {
		t.Errorf("young records went: %q", got)
	}
	if got := s.prune(PruneOptions{Filters: []string{"description==a"}}); len(got) != 0 {
		t.Errorf("a went although b needs it: %q", got)
	}
	used, err := s.Load(t.Context(), a.LayerIDs())
	must(t, err)
	// c first, since nothing else may go before it but other, which is newer.
	if got := s.prune(PruneOptions{MaxUsedSpace: 450_000}); !slices.Equal(got, []string{"c"}) {
		t.Errorf("to size: %q", got)
	}
	if got := s.prune(PruneOptions{}); !slices.Equal(got, []string{"b", "other"}) {
		t.Errorf("all: %q", got)
	}
	if _, err := s.Load(t.Context(), other.LayerIDs()); !errdefs.IsNotFound(err) {
		t.Errorf("pruned layer: %v", err)
	}
	used.Release()
	if got := s.prune(PruneOptions{All: true, ReservedSpace: 1 << 40}); len(got) != 0 {
		t.Errorf("reserved space was not kept: %q", got)
	}
	if got := s.prune(PruneOptions{All: true, MinFreeSpace: 1}); len(got) != 0 {
		t.Errorf("there is enough free space, but: %q", got)
	}
	if got := s.prune(PruneOptions{All: true, MinFreeSpace: 1 << 60}); !slices.Equal(got, []string{"a", "frontend", "internal"}) {
		t.Errorf("no free space: %q", got)
	}
	if got := s.usage(); len(got) != 0 {
		t.Errorf("left: %q", got)
	}
}

func TestPruneFreesSpaceAndSurvivesRestart(t *testing.T) {
	s := open(t, "")
	r := s.put(nil, "a", TypeRegular, 100_000)
	again, err := s.Load(t.Context(), r.LayerIDs())
	must(t, err)
	blobs, err := again.Blobs(t.Context(), Access{}, Compression{})
	must(t, err)
	dir := again.layers[0].here()
	again.Release()
	must(t, s.dir("k", Shared, nil).Close())
	if got := s.prune(PruneOptions{}); len(got) != 2 {
		t.Errorf("pruned %q", got)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is still there: %v", err)
	}
	if _, err := s.Content().Info(t.Context(), blobs[0].Digest); !errdefs.IsNotFound(err) {
		t.Errorf("the blob is still there: %v", err)
	}
	d := s.dir("k", Shared, nil)
	if !d.Fresh {
		t.Error("a pruned directory came back")
	}
	must(t, d.Close())
	// A diff ID that was pruned can be promised again.
	il := s.image(gzipType, "f=x")
	for range 2 {
		r, err := s.Image(t.Context(), []ImageLayer{il})
		must(t, err)
		_, err = r.View(t.Context(), Access{})
		must(t, err)
		r.Release()
		if got := s.prune(PruneOptions{Filters: []string{"description~=pulled"}}); len(got) != 1 {
			t.Errorf("pruned %q", got)
		}
	}
	s.reopen()
	if got := s.usage(); !slices.Equal(got, []string{"cache k"}) {
		t.Errorf("after restart: %q", got)
	}
}

func TestLostFilesAreAMiss(t *testing.T) {
	s := open(t, "")
	r := s.put(nil, "a", TypeRegular, 1)
	il := s.image(gzipType, "f=x")
	img := s.ref(il)
	_, err := img.View(t.Context(), Access{})
	must(t, err)
	must(t, s.Flush(t.Context()))
	ids, img1 := r.LayerIDs(), img.LayerIDs()
	paths := []string{r.layers[0].here(), img.layers[0].here()}
	must(t, s.Close())
	for _, p := range paths {
		must(t, os.RemoveAll(p))
	}
	s.start()
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "is missing") {
		t.Errorf("check: %v", err)
	}
	if _, err := s.Load(t.Context(), ids); !errdefs.IsNotFound(err) {
		t.Errorf("load: %v", err)
	}
	// A layer of an image is fetched again.
	again, err := s.Load(t.Context(), img1)
	must(t, err)
	defer again.Release()
	if got := s.mounted(again); len(got) != 1 {
		t.Errorf("%q", got)
	}
	s.prune(PruneOptions{}) // the lost one goes, and then all is well
}

func putImage(s *storeTest, name string, manifest string, refs ...*Ref) digest.Digest {
	s.t.Helper()
	d := dgstOf(manifest)
	must(s.t, s.PutImage(s.t.Context(), Image{Name: name, Target: ocispec.Descriptor{Digest: d, Size: int64(len(manifest))}},
		map[digest.Digest][]byte{d: []byte(manifest)}, refs))
	return d
}

func TestImagesPinTheirLayers(t *testing.T) {
	s := open(t, "")
	hold := func(name string) *Ref {
		d, err := s.NewDraft(t.Context(), nil, Desc{Description: name})
		must(t, err)
		r, err := d.Commit(t.Context())
		must(t, err)
		return r
	}
	a, b := hold("a"), hold("b")
	old := putImage(s, "app:1", "manifest 1", a)
	new := putImage(s, "app:1", "manifest 2", b)
	putImage(s, "app:2", "manifest 2", b)
	a.Release()
	b.Release()
	s.reopen()
	img, err := s.GetImage(t.Context(), "app:1")
	must(t, err)
	if img.Target.Digest != new {
		t.Errorf("image: %+v", img)
	}
	if _, err := s.GetImage(t.Context(), "nope"); !errdefs.IsNotFound(err) {
		t.Errorf("unknown image: %v", err)
	}
	if got := s.prune(PruneOptions{All: true}); !slices.Equal(got, []string{"a"}) {
		t.Errorf("pruned %q", got)
	}
	if _, err := s.Content().Info(t.Context(), old); !errdefs.IsNotFound(err) {
		t.Errorf("the old manifest is still there: %v", err)
	}
	if _, err := s.Content().Info(t.Context(), new); err != nil {
		t.Errorf("the manifest is gone: %v", err)
	}
	if got := s.prune(PruneOptions{Filters: []string{"type==image,description==app:2"}}); !slices.Equal(got, []string{"app:2"}) {
		t.Errorf("pruned %q", got)
	}
	if got := s.prune(PruneOptions{Filters: []string{"id==" + b.LayerIDs()[0]}}); !slices.Equal(got, []string{"app:1", "b"}) {
		t.Errorf("pruned %q", got)
	}
	imgs, err := s.Images(t.Context())
	must(t, err)
	if len(imgs) != 0 {
		t.Errorf("images: %v", imgs)
	}
	if err := s.PutImage(t.Context(), Image{Name: "bad"}, map[digest.Digest][]byte{dgstOf("x"): []byte("y")}, nil); err == nil {
		t.Error("wrong bytes were accepted")
	}
}

// Builds and prunes at once: what is held stays, what is not found is a miss.
func TestPruneDuringWork(t *testing.T) {
	s := open(t, "")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := s.Prune(context.WithoutCancel(ctx), PruneOptions{}, nil); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	il := s.image(gzipType, "f=x")
	for range 40 {
		img, err := s.Image(t.Context(), []ImageLayer{il})
		must(t, err)
		d, err := s.NewDraft(t.Context(), img, Desc{})
		must(t, err)
		root, unmount, err := d.Mount(t.Context(), Access{})
		must(t, err)
		write(t, root+"/g", "y")
		must(t, unmount())
		r, err := d.Commit(t.Context())
		must(t, err)
		if got := s.mounted(r); len(got) != 2 {
			t.Fatalf("%q", got)
		}
		_, err = r.Blobs(t.Context(), Access{}, Compression{})
		must(t, err)
		dir := s.dir("k", Shared, img)
		must(t, dir.Close())
		ids := r.LayerIDs()
		img.Release()
		r.Release()
		if again, err := s.Load(t.Context(), ids); err == nil {
			if got := s.mounted(again); len(got) != 2 {
				t.Fatalf("%q", got)
			}
			again.Release()
		} else if !errdefs.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	cancel()
	<-done
}
