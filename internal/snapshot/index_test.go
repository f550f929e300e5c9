package snapshot

import (
	"os"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Two steps that make the same files have the same diff ID. The layer that is left is
// found under it, whichever of them was there first.
func TestTwinsInheritTheIndex(t *testing.T) {
	for _, keep := range []int{0, 1, 2} {
		s := open(t, "")
		var diffID digest.Digest
		for i := range 3 {
			d, err := s.NewDraft(t.Context(), nil, Desc{Description: "twin"})
			must(t, err)
			file := d.Upper() + "/f"
			must(t, os.WriteFile(file, []byte("x"), 0o644))
			must(t, os.Chtimes(file, time.Unix(1, 0), time.Unix(1, 0)))
			r, err := d.Commit(t.Context())
			must(t, err)
			blobs, err := r.Blobs(t.Context(), Access{}, Compression{})
			must(t, err)
			diffID = blobs[0].DiffID
			if i == keep {
				must(t, s.PutImage(t.Context(), Image{Name: "kept", Target: ocispec.Descriptor{Digest: diffID}}, nil, []*Ref{r}))
			}
			r.Release()
		}
		must(t, s.Flush(t.Context()))
		s.prune(PruneOptions{All: true})
		r, err := s.LayersOf(t.Context(), []digest.Digest{diffID})
		if err != nil {
			t.Errorf("twin %d is left, but not found: %v", keep, err)
			continue
		}
		r.Release()
		s.prune(PruneOptions{Filters: []string{"type==image"}})
		s.prune(PruneOptions{All: true})
		if _, err := s.LayersOf(t.Context(), []digest.Digest{diffID}); !errdefs.IsNotFound(err) {
			t.Errorf("all twins have gone: %v", err)
		}
	}
}
