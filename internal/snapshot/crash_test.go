package snapshot

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/internal/registry"
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

// churn runs in a child until it is killed. It prints what is durable.
func churn() {
	ctx := context.Background()
	die := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	s, err := Open(ctx, Config{Root: os.Getenv(crashEnv)})
	die(err)
	fmt.Println("ready")
	work := func(n int) {
		var ref *Ref
		for i := 0; ; i++ {
			d, err := s.NewDraft(ctx, ref, Desc{})
			die(err)
			root, _, err := d.Mount(ctx, Access{})
			die(err)
			die(os.WriteFile(fmt.Sprintf("%s/f%d", root, i), make([]byte, 5000), 0o644))
			if i%7 == 6 {
				die(d.Discard())
				ref.Release()
				ref = nil
				continue
			}
			next, err := d.Commit(ctx)
			die(err)
			if ref != nil {
				ref.Release()
			}
			ref = next
			switch i % 5 {
			case 1:
				blobs, err := ref.Blobs(ctx, Access{}, Compression{})
				die(err)
				for _, b := range blobs {
					b.Held(registry.Location{Repo: "reg/pushed"})
				}
			case 2:
				dir, err := s.OpenDir(ctx, fmt.Sprint("k", n), Desc{}, Shared, nil, Access{})
				die(err)
				dir.SetMeta("n", fmt.Append(nil, i))
				die(dir.Close())
			case 3:
				m := fmt.Append(nil, "manifest", n, i)
				name := fmt.Sprintf("img%d:%d", n, i%2)
				die(s.PutImage(ctx, Image{Name: name}, map[dgst][]byte{dgstOf(string(m)): m}, []*Ref{ref}))
				fmt.Println(name, strings.Join(ref.LayerIDs(), " "))
			case 4:
				die(s.Prune(ctx, PruneOptions{Demote: i%2 == 0}, nil))
			}
		}
	}
	go work(0)
	work(1)
}

func TestKilledAtAnyTime(t *testing.T) {
	root := t.TempDir()
	const seed = 1
	rnd := rand.New(rand.NewPCG(seed, seed))
	durable := map[string][]string{}
	for round := range 8 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+root, "SNAPSHOT_CRASH_HOW=churn")
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		sc := bufio.NewScanner(out)
		if !sc.Scan() || sc.Text() != "ready" {
			t.Fatalf("child said %q", sc.Text())
		}
		after := time.Duration(rnd.IntN(300)) * time.Millisecond
		if round == 0 {
			after = time.Hour // this one gets to its first image, however slow the machine is
		}
		timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
		for sc.Scan() {
			if round == 0 {
				must(t, cmd.Process.Kill())
			}
			f := strings.Fields(sc.Text())
			durable[f[0]] = f[1:]
		}
		timer.Stop()
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("round %d: child ended by itself: %v", round, err)
		}

		s, err := Open(t.Context(), Config{Root: root})
		must(t, err)
		if err := s.Check(t.Context()); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for name, ids := range durable {
			img, err := s.GetImage(t.Context(), name)
			must(t, err)
			if img.Name != name {
				t.Errorf("image %+v", img)
			}
			// The name may have moved on to other layers after the child last spoke.
			if r, err := s.Load(t.Context(), ids); err == nil {
				m, err := r.Mount(t.Context(), Access{})
				must(t, err)
				must(t, m.Unmount())
				r.Release()
			} else if !errdefs.IsNotFound(err) {
				t.Error(err)
			}
		}
		must(t, s.Close())
	}
	if len(durable) == 0 {
		t.Error("no child got anywhere")
	}
	s, err := Open(t.Context(), Config{Root: root})
	must(t, err)
	must(t, s.Prune(t.Context(), PruneOptions{All: true, Filters: []string{"type==image", "type!=image"}}, nil))
	must(t, s.Prune(t.Context(), PruneOptions{All: true}, nil))
	recs, err := s.Usage(t.Context(), nil)
	must(t, err)
	if len(recs) != 0 {
		t.Errorf("%d records are left", len(recs))
	}
	must(t, s.Check(t.Context()))
	must(t, s.Close())
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
