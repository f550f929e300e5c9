package remote

import (
	"encoding/json"
	"slices"

	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/solver"
)

// Inline returns what an image carries in its config: what is known of the build, with
// the results that are part of the image's own layers. target is what the image has been
// made from. It is nil if there is none.
func Inline(entries []solver.Entry, target *snapshot.Ref) ([]byte, error) {
	if target == nil {
		return nil, nil
	}
	place := map[string]int{}
	for i, id := range target.LayerIDs() {
		place[id] = i
	}
	b := newBuilder()
	b.names = true
	empty := true
	for _, e := range entries {
		places, ok := placesOf(e, target, place)
		switch {
		case !ok:
			b.add(e, nil, nil)
		case slices.IsSorted(places) && places[len(places)-1] == len(places)-1:
			empty = false
			b.add(e, []result{{Layer: len(places) - 1}}, nil)
		default:
			empty = false
			b.add(e, nil, []chain{{Layers: places}})
		}
	}
	if empty {
		return nil, nil
	}
	return json.Marshal(b.Records)
}

// placesOf returns which layers of the target an entry's result consists of.
func placesOf(e solver.Entry, target *snapshot.Ref, place map[string]int) (places []int, ok bool) {
	l, ok := e.Ref.(layered)
	if !ok || l.Snapshot() == nil {
		return nil, false
	}
	s := l.Snapshot()
	if e.Leaf && s.ID() != target.ID() {
		return nil, false
	}
	for _, id := range s.LayerIDs() {
		p, ok := place[id]
		if !ok {
			return nil, false
		}
		places = append(places, p)
	}
	return places, len(places) > 0
}
