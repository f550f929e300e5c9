package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
)

// A recalled is what the image store remembers of one platform's image: what an image
// with an inline cache has in its config, but beside it, so that the image's digest stays
// the same.
type recalled struct {
	DiffIDs []digest.Digest `json:"diffIDs"`
	Records json.RawMessage `json:"records"`
}

// A Part is the image of one platform: what is known of how it was made, what it was made
// from, and the diff IDs of its layers.
type Part struct {
	Entries []solver.Entry
	Target  *snapshot.Ref
	DiffIDs []digest.Digest
}

// maxRecall bounds what is remembered of one image, in bytes.
const maxRecall = 4 << 20

// Recall returns what the image store is to remember of an image, or nil if that is
// nothing or too much.
func Recall(parts []Part) ([]byte, error) {
	var all []recalled
	for _, p := range parts {
		records, err := Inline(p.Entries, p.Target)
		if err != nil {
			return nil, err
		}
		if records != nil && len(p.Target.LayerIDs()) == len(p.DiffIDs) {
			all = append(all, recalled{p.DiffIDs, records})
		}
	}
	if all == nil {
		return nil, nil
	}
	data, err := json.Marshal(all)
	if err != nil || len(data) > maxRecall {
		return nil, err
	}
	return data, nil
}

// maxRecalled bounds how many images of the store one pattern brings into a build.
const maxRecalled = 1000

// readStore returns what the image store remembers of images whose names match a pattern,
// the newest first. Nothing else is asked.
func (im *Imports) readStore(ctx context.Context, pattern string, log *progress.Log) ([]*memory, error) {
	match, err := nameMatcher(pattern)
	if err != nil {
		return nil, err
	}
	all, err := im.cfg.Store.Images(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(i snapshot.Image) bool { return !match(i.Name) })
	slices.SortStableFunc(all, func(a, b snapshot.Image) int { return b.Created.Compare(a.Created) })
	if len(all) > maxRecalled {
		log.Track(fmt.Sprintf("only the newest %d of %d images are looked at", maxRecalled, len(all))).Done()
		all = all[:maxRecalled]
	}
	var found []*memory
	for _, i := range all {
		img, err := im.cfg.Store.GetImage(ctx, i.Name)
		if err != nil || img.Recall == nil {
			continue // gone since, or made elsewhere
		}
		m, err := recall(img.Recall)
		if err != nil {
			return nil, fmt.Errorf("what is remembered of image %s: %w", i.Name, err)
		}
		found = append(found, m)
	}
	return found, nil
}

// recall reads what Recall wrote.
func recall(data []byte) (*memory, error) {
	var all []recalled
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, malformed("%v", err)
	}
	m := newMemory(nil)
	for _, r := range all {
		c, err := parseInline(r.Records, r.DiffIDs)
		if err != nil {
			return nil, err
		}
		layers := map[digest.Digest]snapshot.ImageLayer{}
		for _, d := range r.DiffIDs {
			layers[d] = snapshot.ImageLayer{DiffID: d}
		}
		m.learn(c, layers)
	}
	return m, nil
}

// nameMatcher matches names of the image store, as they are or as people write them; *
// stands for anything, slashes too.
func nameMatcher(pattern string) (func(name string) bool, error) {
	if pattern == "" {
		return nil, fmt.Errorf("a cache in the image store needs the name of an image, or a pattern (ref=NAME): %w", errdefs.ErrInvalidArgument)
	}
	expr := strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*")
	re, err := regexp.Compile("^(?:" + expr + ")$")
	if err != nil {
		return nil, err
	}
	return func(name string) bool {
		if re.MatchString(name) {
			return true
		}
		named, err := reference.ParseNormalizedNamed(name)
		return err == nil && re.MatchString(reference.FamiliarString(named))
	}, nil
}
