package snapshot

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Two layers link to the files of a third. Merged, each name is a file of its own, but for
// the names that one layer has for one file; bytes, owners and times stay.
func TestMergedLinksAreApart(t *testing.T) {
	s := open(t, "")
	src := s.layer(nil, func(root string) {
		write(t, root+"/f", "f")
		must(t, os.Chown(root+"/f", 7, 8))
		write(t, root+"/g", "g")
		must(t, os.Link(root+"/g", root+"/h"))
	})
	v, err := src.View(t.Context(), Access{})
	must(t, err)
	linked := func(dir string) *Ref {
		d, err := s.NewDraft(t.Context(), nil, Desc{Description: "a copy"})
		must(t, err)
		must(t, os.Mkdir(filepath.Join(d.Upper(), dir), 0o755))
		may := d.Links(src).May
		for _, name := range []string{"f", "g", "h"} {
			host := filepath.Join(v.roots[0], name)
			if !may(host) {
				t.Fatalf("a first link to %s is refused", name)
			}
			must(t, os.Link(host, filepath.Join(d.Upper(), dir, name)))
		}
		r, err := d.Commit(t.Context())
		must(t, err)
		t.Cleanup(r.Release)
		return r
	}
	a, b := linked("a"), linked("b")
	before := append(s.mounted(a), s.mounted(b)...)
	m := s.Merge(a, b)
	defer m.Release()
	for range 2 { // the second time it is known
		same(t, "merge", s.mounted(m), before)
	}
	mnt, err := m.Mount(t.Context(), Access{})
	must(t, err)
	defer func() { must(t, mnt.Unmount()) }()
	stat := func(name string) (st unix.Stat_t) {
		must(t, unix.Lstat(filepath.Join(mnt.Root, name), &st))
		return st
	}
	for _, name := range []string{"f", "g", "h"} {
		x, y := stat("a/"+name), stat("b/"+name)
		if x.Ino == y.Ino {
			t.Errorf("a/%s and b/%s are one file", name, name)
		}
		if x.Mtim != y.Mtim || x.Uid != y.Uid || x.Gid != y.Gid {
			t.Errorf("b/%s differs: %v %v", name, x, y)
		}
	}
	if stat("b/g").Ino != stat("b/h").Ino {
		t.Error("b/g and b/h are two files")
	}
}
