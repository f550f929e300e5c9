package snapshot

import (
	"os"
	"slices"
	"testing"
)

func TestSquash(t *testing.T) {
	modes(t, func(t *testing.T, mode string) {
		s := open(t, mode)
		base := s.layer(nil, func(root string) {
			write(t, root+"/dir/gone", "g")
			write(t, root+"/dir/stays", "s")
		})
		a := s.layer(base, func(root string) {
			write(t, root+"/big", "b")
			write(t, root+"/new/x", "x")
			must(t, os.Link(root+"/new/x", root+"/new/y"))
		})
		top := s.layer(a, func(root string) {
			must(t, os.Remove(root+"/big"))
			must(t, os.Remove(root+"/dir/gone"))
		})
		one, err := top.Squash(t.Context(), Access{}, 1, Desc{})
		must(t, err)
		defer one.Release()
		if got := one.LayerIDs(); len(got) != 2 || got[0] != base.LayerIDs()[0] {
			t.Errorf("layers %q", got)
		}
		same(t, "files", s.listing(one), s.listing(top))
		same(t, "mount", s.mounted(one), s.mounted(top))
		own, err := s.Diff(t.Context(), Access{}, base, one)
		must(t, err)
		defer own.Release()
		if got := s.listing(own); slices.ContainsFunc(got, func(l string) bool { return l[:3] == "big" }) {
			t.Errorf("what was deleted is in the layer: %q", got)
		}
		all, err := top.Squash(t.Context(), Access{}, 0, Desc{})
		must(t, err)
		defer all.Release()
		if got := all.LayerIDs(); len(got) != 1 {
			t.Errorf("layers %q", got)
		}
		same(t, "all", s.listing(all), s.listing(top))
		// Nothing to do.
		none, err := top.Squash(t.Context(), Access{}, 2, Desc{})
		must(t, err)
		defer none.Release()
		if none.ID() != top.ID() {
			t.Errorf("another ref: %q", none.LayerIDs())
		}
	})
}
