package snapshot

import (
	"bytes"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/registry"
)

// pushed makes every blob of r known to a registry.
func (s *storeTest) pushed(r *Ref, c Compression) []Blob {
	s.t.Helper()
	blobs, err := r.Blobs(s.t.Context(), Access{}, c)
	must(s.t, err)
	for _, b := range blobs {
		rc, err := b.Open(s.t.Context(), nil)
		must(s.t, err)
		data, err := io.ReadAll(rc)
		must(s.t, err)
		must(s.t, rc.Close())
		s.reg.mu.Lock()
		s.reg.blobs[b.Digest.String()] = data
		s.reg.mu.Unlock()
		b.Held(registry.Location{Repo: "reg/pushed"})
	}
	return blobs
}

// sizes are what du says: bytes here and elsewhere.
func (s *storeTest) sizes() map[string][2]int64 {
	s.t.Helper()
	recs, err := s.Usage(s.t.Context(), nil)
	must(s.t, err)
	out := map[string][2]int64{}
	for _, r := range recs {
		out[r.Description] = [2]int64{r.Size, r.RemoteSize}
	}
	return out
}

// What a registry has is given up by the collector as bytes only, and is there again when it
// is needed, after a restart, too. What nobody else has is removed.
func TestDemote(t *testing.T) {
	s := open(t, "")
	base := s.put(nil, "base", TypeRegular, 100_000)
	top := s.put(base, "top", TypeRegular, 100_000)
	s.put(base, "own", TypeRegular, 100_000)
	s.put(nil, "beneath", TypeRegular, 100_000)
	ids := top.LayerIDs()
	r, err := s.Load(t.Context(), ids)
	must(t, err)
	want := s.listing(r)
	blobs := s.pushed(r, Compression{})
	dirs := []string{r.layers[0].here(), r.layers[1].here()}
	r.Release()

	if got := s.prune(PruneOptions{Demote: true}); !slices.Equal(got, []string{"base", "beneath", "own", "top"}) {
		t.Errorf("pruned %q", got)
	}
	for _, dir := range dirs {
		if isDir(dir) {
			t.Error("the files are still there")
		}
	}
	if _, err := s.Content().Info(t.Context(), blobs[1].Digest); !errdefs.IsNotFound(err) {
		t.Errorf("the blob is still there: %v", err)
	}
	told := map[string][2]int64{"base": {0, blobs[0].Size}, "top": {0, blobs[1].Size}}
	if got := s.sizes(); len(got) != 2 || got["base"] != told["base"] || got["top"] != told["top"] {
		t.Errorf("usage %v, want %v", got, told)
	}
	if got := s.prune(PruneOptions{Demote: true}); len(got) != 0 {
		t.Errorf("a promise that takes no space was pruned: %q", got)
	}
	s.reopen()
	r, err = s.Load(t.Context(), ids)
	must(t, err)
	if n := s.reg.count(); n != 0 {
		t.Errorf("%d blobs were read for nothing", n)
	}
	if got := r.Elsewhere(); len(got) != 2 {
		t.Errorf("%d layers can be lost", len(got))
	}
	if got := s.listing(r); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	r.Release()
	if got := s.prune(PruneOptions{}); !slices.Equal(got, []string{"base", "top"}) {
		t.Errorf("asked to prune all it left %q", got)
	}
}

// A layer stays whole if what is beneath could not stay: the promise would be of no use.
// The bytes beneath something that stays whole stay, too.
func TestDemoteIsAllOrNothing(t *testing.T) {
	s := open(t, "")
	base := s.put(nil, "base", TypeRegular, 100_000)
	top := s.put(base, "top", TypeRegular, 100_000)
	r, err := s.Load(t.Context(), top.LayerIDs())
	must(t, err)
	r.layers[0].mu.Lock()
	r.layers[0].row.DiffID = "" // it never was a blob
	r.layers[0].mu.Unlock()
	b, err := r.layers[1].make(t.Context(), Access{}, Compression{Type: gzipType}, "")
	must(t, err)
	r.layers[1].held(b.Digest, registry.Location{Repo: "reg/pushed"})
	r.Release()
	if got := s.prune(PruneOptions{Demote: true}); len(got) != 2 || len(s.usage()) != 0 {
		t.Errorf("pruned %q, left %q", got, s.usage())
	}

	lower := s.put(nil, "lower", TypeRegular, 100_000)
	upper := s.put(lower, "upper", TypeRegular, 100_000)
	l, err := s.Load(t.Context(), lower.LayerIDs())
	must(t, err)
	s.pushed(l, Compression{})
	l.Release()
	held, err := s.Load(t.Context(), upper.LayerIDs()[1:])
	must(t, err)
	if got := s.prune(PruneOptions{Demote: true}); len(got) != 0 {
		t.Errorf("pruned %q, which is beneath something in use", got)
	}
	held.Release()
}

// Old promises go in the end.
func TestOldPromisesGo(t *testing.T) {
	s := open(t, "")
	il := s.image(gzipType, "f=x")
	r, err := s.Image(t.Context(), []ImageLayer{il})
	must(t, err)
	r.Release()
	must(t, s.Flush(t.Context()))
	if got := s.prune(PruneOptions{Demote: true}); len(got) != 0 {
		t.Errorf("pruned %q", got)
	}
	s.mu.Lock()
	s.used[r.layers[0].id] = usage{last: time.Now().Add(-2 * promiseFor), n: 1}
	s.mu.Unlock()
	if got := s.prune(PruneOptions{Demote: true}); len(got) != 1 {
		t.Errorf("pruned %q", got)
	}
}

// A layer that was demoted makes the same blobs as before, with its times clamped, too.
func TestDemotedMakesTheSame(t *testing.T) {
	s := open(t, "")
	r := s.put(nil, "a", TypeRegular, 1000)
	ids := r.LayerIDs()
	epoch := time.Unix(1_000_000, 0)
	clamped := Compression{Epoch: &epoch}
	plain := Compression{Type: noneType, Force: true}
	make := func(c Compression) string {
		t.Helper()
		r, err := s.Load(t.Context(), ids)
		must(t, err)
		defer r.Release()
		b, err := r.Blobs(t.Context(), Access{}, c)
		must(t, err)
		rc, err := b[0].Open(t.Context(), nil)
		must(t, err)
		defer rc.Close()
		var buf bytes.Buffer
		_, err = buf.ReadFrom(rc)
		must(t, err)
		return b[0].Digest.String() + b[0].DiffID.String()
	}
	again, err := s.Load(t.Context(), ids)
	must(t, err)
	s.pushed(again, Compression{})
	again.Release()
	want := []string{make(clamped), make(plain)}
	if got := s.prune(PruneOptions{Demote: true}); len(got) != 1 {
		t.Fatalf("pruned %q", got)
	}
	if got := []string{make(clamped), make(plain)}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
