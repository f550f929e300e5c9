package snapshot

import (
	"io/fs"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMergeDoesNotHideOtherDirectories(t *testing.T) {
	modes(t, func(t *testing.T, mode string) {
		s := open(t, mode)
		base := s.layer(nil, func(root string) { write(t, root+"/base", "b") })
		// Both make the same new directory; the kernel marks it opaque.
		a := s.layer(base, func(root string) { write(t, root+"/opt/tool/a", "a") })
		b := s.layer(base, func(root string) { write(t, root+"/opt/tool/b", "b") })
		m := s.Merge(a, b)
		defer m.Release()
		if n := len(m.LayerIDs()); n != 3 {
			t.Errorf("%d layers, the shared one should be there once", n)
		}
		want := []string{
			`base -rw-r--r-- 0:0 "b"`,
			`opt drwxr-xr-x 0:0`,
			`opt/tool drwxr-xr-x 0:0`,
			`opt/tool/a -rw-r--r-- 0:0 "a"`,
			`opt/tool/b -rw-r--r-- 0:0 "b"`,
		}
		same(t, "view", s.listing(m), want)
		same(t, "mount", s.mounted(m), want)
		// Something built on the merge.
		top := s.layer(m, func(root string) { must(t, os.RemoveAll(root+"/opt/tool")) })
		same(t, "on top", s.mounted(top), want[:2])
	})
}

func TestDiffIsSuffixOrComputed(t *testing.T) {
	modes(t, func(t *testing.T, mode string) {
		s := open(t, mode)
		base := s.layer(nil, func(root string) {
			write(t, root+"/keep", "k")
			write(t, root+"/dir/gone", "g")
			write(t, root+"/dir/same", "s")
			write(t, root+"/changed", "1")
		})
		upper := s.layer(base, func(root string) {
			must(t, os.Remove(root+"/dir/gone"))
			write(t, root+"/changed", "2")
			write(t, root+"/new/x", "x")
			must(t, os.Link(root+"/new/x", root+"/new/y"))
			must(t, unix.Lsetxattr(root+"/new/x", "user.mark", []byte("m"), 0))
		})
		suffix, err := s.Diff(t.Context(), Access{}, base, upper)
		must(t, err)
		defer suffix.Release()
		if got := suffix.LayerIDs(); !slices.Equal(got, upper.LayerIDs()[1:]) {
			t.Errorf("suffix %q of %q", got, upper.LayerIDs())
		}
		whole, err := s.Diff(t.Context(), Access{}, nil, upper)
		must(t, err)
		defer whole.Release()
		if whole.ID() != upper.ID() {
			t.Error("difference from nothing is not the whole")
		}

		// The same files as one layer, so that it is no suffix.
		flat := s.layer(nil, func(root string) {
			v, err := upper.View(t.Context(), Access{})
			must(t, err)
			must(t, copyView(t.Context(), v, root))
		})
		d, err := s.Diff(t.Context(), Access{}, base, flat)
		must(t, err)
		defer d.Release()
		if len(d.LayerIDs()) != 1 {
			t.Errorf("layers %q", d.LayerIDs())
		}
		both := s.Merge(base, d)
		defer both.Release()
		same(t, "lower and difference", s.listing(both), s.listing(flat))
		same(t, "mounted", s.mounted(both), s.listing(flat))
		got := s.listing(d)
		if slices.ContainsFunc(got, func(l string) bool { return l[:4] == "keep" || l[:4] == "dir/" }) {
			t.Errorf("the difference has files that did not change: %q", got)
		}
		// And to nothing: everything is removed.
		empty, err := s.Diff(t.Context(), Access{}, base, nil)
		must(t, err)
		defer empty.Release()
		none := s.Merge(base, empty)
		defer none.Release()
		same(t, "nothing", s.listing(none), nil)
	})
}

func TestMountOfManyLayers(t *testing.T) {
	s := open(t, "overlay")
	var r *Ref
	for range 400 {
		d, err := s.NewDraft(t.Context(), r, Desc{})
		must(t, err)
		write(t, d.Upper()+"/f", "x")
		if r != nil {
			r.Release()
		}
		r, err = d.Commit(t.Context())
		must(t, err)
	}
	defer r.Release()
	if got := s.mounted(r); len(got) != 1 {
		t.Errorf("%q", got)
	}
	// Without lowerdir+, too.
	s.mnt.(*overlayMounter).fsconfig = false
	if got := s.mounted(r); len(got) != 1 {
		t.Errorf("%q", got)
	}
	for range 101 {
		d, err := s.NewDraft(t.Context(), r, Desc{})
		must(t, err)
		r.Release()
		r, err = d.Commit(t.Context())
		must(t, err)
	}
	if _, err := r.Mount(t.Context(), Access{}); err == nil {
		t.Error("501 layers were mounted")
	}
}

func TestRootAttributesAndSpecialFiles(t *testing.T) {
	modes(t, func(t *testing.T, mode string) {
		s := open(t, mode)
		base := s.layer(nil, func(root string) {
			must(t, os.Chmod(root, 0o555))
			must(t, unix.Mkfifo(root+"/pipe", 0o600))
			must(t, unix.Mknod(root+"/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
			write(t, root+"/suid", "s")
			must(t, os.Chown(root+"/suid", 1, 2))
			must(t, os.Chmod(root+"/suid", 0o755|fs.ModeSetuid))
		})
		top := s.layer(base, func(root string) {
			fi, err := os.Stat(root)
			must(t, err)
			if fi.Mode().Perm() != 0o555 {
				t.Errorf("mode of the root: %v", fi.Mode())
			}
			must(t, os.Rename(root+"/suid", root+"/moved"))
		})
		want := []string{
			`moved urwxr-xr-x 1:2 "s"`,
			`null Dcrw-r--r-- 0:0`,
			`pipe prw------- 0:0`,
		}
		same(t, "view", s.listing(top), want)
		same(t, "mount", s.mounted(top), want)
		v, err := top.View(t.Context(), Access{})
		must(t, err)
		st, err := v.Lstat("")
		must(t, err)
		if fs.FileMode(st.Mode).Perm() != 0o555 {
			t.Errorf("mode of the root: %o", st.Mode)
		}
		st, err = v.Lstat("null")
		must(t, err)
		if st.Devmajor != 1 || st.Devminor != 3 {
			t.Errorf("device %d:%d", st.Devmajor, st.Devminor)
		}
		if _, err := v.Open("pipe"); err == nil {
			t.Error("a pipe was opened")
		}
		if _, err := v.HostPath(""); err == nil {
			t.Error("host path of a directory")
		}
	})
}

func TestDraftMisuse(t *testing.T) {
	s := open(t, "")
	base := s.layer(nil, func(root string) { write(t, root+"/f", "x") })
	d, err := s.NewDraft(t.Context(), base, Desc{})
	must(t, err)
	_, unmount, err := d.Mount(t.Context(), Access{})
	must(t, err)
	if _, _, err := d.Mount(t.Context(), Access{}); err == nil {
		t.Error("mounted twice at once")
	}
	must(t, unmount())
	must(t, unmount())
	root, _, err := d.Mount(t.Context(), Access{})
	must(t, err)
	write(t, root+"/g", "y")
	r, err := d.Commit(t.Context()) // unmounts
	must(t, err)
	defer r.Release()
	if _, err := d.Commit(t.Context()); err == nil {
		t.Error("committed twice")
	}
	must(t, d.Discard())
	if got := s.mounted(r); len(got) != 2 {
		t.Errorf("%q", got)
	}

	d, err = s.NewDraft(t.Context(), base, Desc{})
	must(t, err)
	root, _, err = d.Mount(t.Context(), Access{})
	must(t, err)
	write(t, root+"/big", "x")
	dir := d.Upper()
	must(t, d.Discard())
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the discarded draft still takes space: %v", err)
	}
	if _, err := d.Commit(t.Context()); err == nil {
		t.Error("committed after discard")
	}
}

// A directory in which something was made and removed again, and which is as old as it was,
// is no difference; one that changed is.
func TestUntouchedDirectoriesAreNoDifference(t *testing.T) {
	modes(t, func(t *testing.T, mode string) {
		s := open(t, mode)
		base := s.layer(nil, func(root string) {
			for _, dir := range []string{"etc/conf.d", "tmp", "opt"} {
				must(t, os.MkdirAll(root+"/"+dir, 0o755))
			}
			write(t, root+"/etc/hosts", "h")
		})
		upper := s.layer(base, func(root string) {
			for _, dir := range []string{"/etc/conf.d", "/etc", "/tmp"} {
				var st unix.Stat_t
				must(t, unix.Lstat(root+dir, &st))
				write(t, root+dir+"/stub", "")
				must(t, os.Remove(root+dir+"/stub"))
				must(t, unix.UtimesNanoAt(unix.AT_FDCWD, root+dir, []unix.Timespec{st.Atim, st.Mtim}, 0))
			}
			must(t, os.Chmod(root+"/opt", 0o700))
		})
		diff, err := s.Diff(t.Context(), Access{}, base, upper)
		must(t, err)
		defer diff.Release()
		same(t, "difference", s.listing(diff), []string{`opt drwx------ 0:0`})
		same(t, "all", s.mounted(upper), []string{
			`etc drwxr-xr-x 0:0`, `etc/conf.d drwxr-xr-x 0:0`, `etc/hosts -rw-r--r-- 0:0 "h"`, `opt drwx------ 0:0`, `tmp drwxr-xr-x 0:0`,
		})
	})
}
