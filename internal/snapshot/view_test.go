package snapshot

import "testing"

func TestDepthOfFiles(t *testing.T) {
	modes(t, func(t *testing.T, mode string) {
		s := open(t, mode)
		base := s.layer(nil, func(root string) {
			write(t, root+"/d/old", "1")
			write(t, root+"/changed", "1")
		})
		middle := s.layer(base, func(root string) { write(t, root+"/d/new", "2") })
		top := s.layer(middle, func(root string) { write(t, root+"/changed", "3") })
		v, err := top.View(t.Context(), Access{})
		must(t, err)
		for p, want := range map[string]int{"d/old": 2, "d/new": 1, "changed": 0} {
			if got, err := v.Depth(p); err != nil || got != want {
				t.Errorf("%s: got %d, %v; want %d", p, got, err, want)
			}
		}
		for _, p := range []string{"d", "missing", ""} {
			if got, err := v.Depth(p); err == nil {
				t.Errorf("%q: got %d", p, got)
			}
		}
	})
}
