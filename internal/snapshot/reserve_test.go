package snapshot

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// fillDisk writes to a file until the disk is full.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(t, err)
	defer f.Close()
	buf := make([]byte, 4096)
	for err == nil {
		_, err = f.Write(buf)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// On a disk without a free byte, layers can still be removed, also those that were made
// when it was full already.
func TestFullDisk(t *testing.T) {
	root := t.TempDir()
	must(t, unix.Mount("tmpfs", root, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() { _ = unix.Unmount(root, unix.MNT_DETACH) })
	s := &storeTest{t: t, cfg: Config{Root: root}}
	s.start()
	t.Cleanup(func() { must(t, s.Close()) })
	s.put(nil, "before", TypeRegular, 4<<20)
	must(t, s.Flush(t.Context()))
	drafts := map[string]*Draft{}
	for _, name := range []string{"dropped", "full"} {
		d, err := s.NewDraft(t.Context(), nil, Desc{Description: name})
		must(t, err)
		drafts[name] = d
	}
	for range 2 {
		fillDisk(t, filepath.Join(drafts["dropped"].Upper(), "f"))
		fillDisk(t, filepath.Join(drafts["full"].Upper(), "f"))
		if free := s.free(); free > 0 {
			t.Errorf("%d bytes are free", free)
		}
		if _, err := s.Usage(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	r, err := drafts["full"].Commit(t.Context())
	must(t, err)
	r.Release()
	must(t, s.Flush(t.Context()))
	must(t, drafts["dropped"].Discard())
	if got, want := s.prune(PruneOptions{}), []string{"before", "full"}; !slices.Equal(got, want) {
		t.Errorf("pruned %q, want %q", got, want)
	}
	if free := s.free(); free < 8<<20 {
		t.Errorf("%d bytes are free", free)
	}
	if st, err := os.Stat(s.reserve()); err != nil || st.Size() != reserveSize {
		t.Errorf("reserve: %v, %v", st, err)
	}
	fillDisk(t, filepath.Join(root, "other"))
	s.reopen()
	must(t, os.Remove(filepath.Join(root, "other")))
	s.put(nil, "after", TypeRegular, 4<<20)
	if got := s.usage(); !slices.Equal(got, []string{"after"}) {
		t.Errorf("have %q", got)
	}
}
