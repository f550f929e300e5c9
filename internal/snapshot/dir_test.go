package snapshot

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"
)

func (s *storeTest) dir(key string, sharing Sharing, base *Ref) *Dir {
	s.t.Helper()
	d, err := s.OpenDir(s.t.Context(), key, Desc{Type: TypeCacheMount, Description: "cache " + key}, sharing, base, Access{})
	must(s.t, err)
	return d
}

// waits says whether opening key now has to wait.
func (s *storeTest) waits(key string, sharing Sharing) bool {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Millisecond)
	defer cancel()
	d, err := s.OpenDir(ctx, key, Desc{Type: TypeCacheMount}, sharing, nil, Access{})
	if err == nil {
		must(s.t, d.Close())
		return false
	}
	if !errors.Is(err, context.DeadlineExceeded) {
		s.t.Fatal(err)
	}
	return true
}

func TestDirSharing(t *testing.T) {
	s := open(t, "")
	a := s.dir("k", Shared, nil)
	if !a.Fresh {
		t.Error("a new directory is not fresh")
	}
	write(t, a.Path+"/f", "x")
	b := s.dir("k", Shared, nil)
	if b.Path != a.Path || b.Fresh {
		t.Error("shared, but not the same")
	}
	if !s.waits("k", Locked) {
		t.Error("locked although shared by others")
	}
	p1, p2 := s.dir("k", Private, nil), s.dir("k", Private, nil)
	if p1.Path == a.Path || p1.Path == p2.Path {
		t.Error("private, but shared")
	}
	other := s.dir("k2", Locked, nil)
	for _, d := range []*Dir{a, a, b, p1, p2, other} {
		must(t, d.Close())
	}
	l := s.dir("k", Locked, nil)
	if l.Fresh || l.Path != a.Path {
		t.Error("locked opens another directory")
	}
	if !s.waits("k", Shared) || !s.waits("k", Locked) {
		t.Error("joined a locked directory")
	}
	got := make(chan *Dir)
	go func() {
		d, err := s.OpenDir(t.Context(), "k", Desc{Type: TypeCacheMount}, Locked, nil, Access{})
		if err != nil {
			t.Error(err)
		}
		got <- d
	}()
	must(t, l.Close())
	must(t, (<-got).Close())
	// The same key of another kind is another directory.
	d, err := s.OpenDir(t.Context(), "k", Desc{Type: TypeLocal}, Shared, nil, Access{})
	must(t, err)
	if d.Path == a.Path {
		t.Error("kinds share a directory")
	}
	must(t, d.Close())
}

func TestDropDir(t *testing.T) {
	s := open(t, "")
	a := s.dir("k", Shared, nil)
	write(t, a.Path+"/f", "x")
	drop := func(key string) { must(t, s.DropDir(t.Context(), key, TypeCacheMount, nil)) }
	drop("k")
	drop("never seen")
	if b := s.dir("k", Shared, nil); b.Path != a.Path || b.Fresh {
		t.Error("a directory in use was removed")
	} else {
		must(t, b.Close())
	}
	must(t, a.Close())
	other := s.dir("other", Shared, nil)
	must(t, other.Close())
	drop("k")
	a = s.dir("k", Shared, nil)
	defer a.Close()
	if _, err := os.Lstat(a.Path + "/f"); !a.Fresh || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory does not start anew: %v", err)
	}
	other = s.dir("other", Shared, nil)
	defer other.Close()
	if other.Fresh {
		t.Error("another directory was removed, too")
	}
}

func TestDirMetaAndBaseSurvive(t *testing.T) {
	modes(t, func(t *testing.T, mode string) {
		s := open(t, mode)
		base := s.layer(nil, func(root string) {
			write(t, root+"/from-base", "b")
			must(t, os.Chmod(root, 0o700))
		})
		d := s.dir("k", Shared, base)
		b, err := os.ReadFile(d.Path + "/from-base")
		if err != nil || string(b) != "b" {
			t.Fatalf("base: %q, %v", b, err)
		}
		if fi, err := os.Stat(d.Path); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("root: %v, %v", fi.Mode(), err)
		}
		must(t, os.Remove(d.Path+"/from-base"))
		write(t, d.Path+"/own", "o")
		d.SetMeta("index", []byte("1"))
		d.SetMeta("index", []byte("2"))
		d.SetMeta("gone", []byte("1"))
		d.SetMeta("gone", nil)
		must(t, d.Close())
		without := s.dir("k", Shared, nil)
		if !without.Fresh {
			t.Error("a directory without base is the one with")
		}
		must(t, without.Close())
		ids := base.LayerIDs()
		s.reopen()
		base, err = s.Load(t.Context(), ids)
		must(t, err)
		defer base.Release()
		d = s.dir("k", Locked, base)
		defer func() { must(t, d.Close()) }()
		if d.Fresh || string(d.Meta("index")) != "2" || d.Meta("gone") != nil {
			t.Errorf("fresh %v, meta %q", d.Fresh, d.Meta("index"))
		}
		entries, err := os.ReadDir(d.Path)
		must(t, err)
		if len(entries) != 1 || entries[0].Name() != "own" {
			t.Errorf("entries %v", entries)
		}
	})
}

func TestDirOpenFailureLetsOthersTry(t *testing.T) {
	s := open(t, "")
	il := s.image(gzipType, "f=x")
	base := s.ref(il)
	s.reg.err = errors.New("registry is down")
	if _, err := s.OpenDir(t.Context(), "k", Desc{}, Shared, base, Access{}); err == nil {
		t.Fatal("opened without its base")
	}
	s.reg.err = nil
	must(t, s.dir("k", Locked, base).Close())
}
