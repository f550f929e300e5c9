package snapshot

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	bolt "go.etcd.io/bbolt"
)

const crashEnv = "SNAPSHOT_CRASH_ROOT"

// crash runs in a child: it writes, says what is durable, and dies without closing.
func crash() {
	ctx := context.Background()
	die := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	s, err := Open(ctx, Config{Root: os.Getenv(crashEnv)})
	die(err)
	var ref *Ref
	for i := range 5 {
		d, err := s.NewDraft(ctx, ref, Desc{})
		die(err)
		root, unmount, err := d.Mount(ctx, Access{})
		die(err)
		die(os.WriteFile(fmt.Sprintf("%s/f%d", root, i), []byte("x"), 0o644))
		die(unmount())
		ref, err = d.Commit(ctx)
		die(err)
		if i == 2 {
			dir, err := s.OpenDir(ctx, "cache", Desc{Type: TypeCacheMount}, Shared, nil, Access{})
			die(err)
			die(os.WriteFile(dir.Path+"/kept", nil, 0o644))
			_, err = ref.Blobs(ctx, Access{}, Compression{})
			die(err)
			die(s.Flush(ctx))
			fmt.Println(strings.Join(ref.LayerIDs(), " "))
		}
	}
	// Left behind: two layers that may not have been written, a draft that is mounted, a
	// mount, a row that is not committed, and a blob nobody names.
	d, err := s.NewDraft(ctx, ref, Desc{})
	die(err)
	root, _, err := d.Mount(ctx, Access{})
	die(err)
	die(os.WriteFile(root+"/half", []byte("x"), 0o644))
	_, err = ref.Mount(ctx, Access{})
	die(err)
	die(s.writeBlobs(ctx, map[dgst][]byte{dgstOf("orphan"): []byte("orphan")}))
	s.Later(func(*bolt.Tx) error { return nil })
	os.Exit(0)
}

func TestAfterCrashNothingDanglesAndNothingIsLeft(t *testing.T) {
	root := t.TempDir()
	for range 3 { // the second and third find what the first left
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+root)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		sc := bufio.NewScanner(strings.NewReader(string(out)))
		sc.Scan()
		ids := strings.Fields(sc.Text())
		if len(ids) != 3 {
			t.Fatalf("child said %q", out)
		}

		s, err := Open(t.Context(), Config{Root: root})
		must(t, err)
		must(t, s.Check(t.Context()))
		r, err := s.Load(t.Context(), ids)
		must(t, err)
		v, err := r.View(t.Context(), Access{})
		must(t, err)
		names, err := v.ReadDir("")
		must(t, err)
		if len(names) != 3 {
			t.Errorf("durable layers have %q", names)
		}
		dir, err := s.OpenDir(t.Context(), "cache", Desc{Type: TypeCacheMount}, Shared, nil, Access{})
		must(t, err)
		if _, err := os.Stat(dir.Path + "/kept"); err != nil || dir.Fresh {
			t.Errorf("the cache directory is not what it was: %v", err)
		}
		must(t, dir.Close())
		mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(root))
		must(t, err)
		if len(mounts) != 0 {
			t.Errorf("mounts are left: %v", mounts)
		}
		if _, err := s.Content().Info(t.Context(), dgstOf("orphan")); err == nil {
			t.Error("the orphan blob is still there")
		}
		r.Release()
		must(t, s.Close())
		// Only directories of rows and the pool's are left.
		s, err = Open(t.Context(), Config{Root: root})
		must(t, err)
		recs, err := s.Usage(t.Context(), nil)
		must(t, err)
		entries, err := os.ReadDir(filepath.Join(root, "snapshots", "fs"))
		must(t, err)
		if len(entries) > len(recs)+2*poolMin {
			t.Errorf("%d directories for %d records", len(entries), len(recs))
		}
		must(t, s.Check(t.Context()))
		must(t, s.Close())
	}
}
