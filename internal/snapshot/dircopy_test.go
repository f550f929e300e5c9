package snapshot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// only is the one directory of a key.
func (s *storeTest) only(key string) DirInfo {
	s.t.Helper()
	dirs, err := s.Dirs(s.t.Context(), key, TypeCacheMount)
	must(s.t, err)
	if len(dirs) != 1 {
		s.t.Fatalf("%d directories: %+v", len(dirs), dirs)
	}
	return dirs[0]
}

func (s *storeTest) copy(i DirInfo, sharing Sharing) *DirCopy {
	s.t.Helper()
	c, err := s.CopyDir(s.t.Context(), i, sharing, nil)
	must(s.t, err)
	s.t.Cleanup(func() { must(s.t, c.Close()) })
	return c
}

// copies are the files with bytes of copies that there are.
func (s *storeTest) copies() []string {
	list, err := filepath.Glob(s.work + "/copy-*")
	must(s.t, err)
	return list
}

// seed is what a copy is elsewhere.
func (s *storeTest) seed(c *DirCopy) Seed {
	return Seed{Name: "k", Blob: c.Blob, DiffID: c.DiffID, Open: c.Open}
}

func (s *storeTest) plant(key string, base *Ref, seed Seed) error {
	return s.SeedDir(s.t.Context(), key, Desc{Type: TypeCacheMount}, base, seed, Access{})
}

// detail is what a compiler may look at.
func detail(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	attrs, err := xattrs(path)
	must(t, err)
	to, _ := os.Readlink(path)
	return fmt.Sprintf("mode %o, %d:%d, %d.%09d, %d links, %v %s", st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec, st.Nlink, attrs, to)
}

func TestCopyOfADirectorySeedsAnother(t *testing.T) {
	modes(t, func(t *testing.T, mode string) {
		here, there := open(t, mode), open(t, mode)
		mk := func(s *storeTest) *Ref {
			return s.layer(nil, func(root string) {
				must(t, os.Mkdir(root+"/cache", 0o700))
				must(t, os.Chown(root+"/cache", 5, 6))
			})
		}
		for name, bases := range map[string][2]*Ref{"plain": {}, "based": {mk(here), mk(there)}} {
			d := here.dir(name, Shared, bases[0])
			root := d.Path
			if bases[0] != nil {
				root += "/cache"
			}
			write(t, root+"/dir/file", "content")
			must(t, os.Link(root+"/dir/file", root+"/other"))
			must(t, os.Symlink("dir/file", root+"/link"))
			must(t, unix.Mkfifo(root+"/fifo", 0o600))
			must(t, os.Chown(root+"/dir", 1000, 1001))
			must(t, unix.Chmod(root+"/dir/file", 0o4750))
			must(t, unix.Setxattr(root+"/dir/file", "user.note", []byte("x\x00y"), 0))
			past := time.Unix(1700000000, 123456789)
			must(t, os.Chtimes(root+"/dir/file", past, past))
			must(t, os.Chtimes(root+"/dir", past, past))
			if bases[0] == nil {
				must(t, unix.Chmod(root, 0o1777))
			} else {
				must(t, os.Chmod(root, 0o711))
			}
			paths := []string{"/dir", "/dir/file", "/other", "/link", "/fifo"}
			want := map[string]string{}
			for _, p := range paths {
				want[p] = detail(t, root+p)
			}
			must(t, d.Close())

			c := here.copy(here.only(name), Shared)
			must(t, there.plant(name, bases[1], there.seed(c)))
			again := there.copy(there.only(name), Shared)
			if again.Blob.Digest != c.Blob.Digest {
				t.Errorf("%s: the same files are another blob", name)
			}
			must(t, again.Close())
			d = there.dir(name, Locked, bases[1])
			if d.Fresh {
				t.Errorf("%s: the directory is not the one that was seeded", name)
			}
			root, perm := d.Path, uint32(0o1777)
			if bases[1] != nil {
				root, perm = root+"/cache", 0o711
			}
			for _, p := range paths {
				if got := detail(t, root+p); got != want[p] {
					t.Errorf("%s: %s is %s, want %s", name, p, got, want[p])
				}
			}
			var st unix.Stat_t
			must(t, unix.Lstat(root, &st))
			if st.Mode&0o7777 != perm {
				t.Errorf("%s: the root has the mode %o", name, st.Mode)
			}
			must(t, d.Close())
			// What is there stays.
			must(t, there.plant(name, bases[1], Seed{Name: "k", Blob: c.Blob, DiffID: c.DiffID, Open: func(context.Context) (io.ReadCloser, error) {
				t.Error("read although the directory is there")
				return nil, errors.New("no")
			}}))
		}
		there.reopen()
		if d := there.dir("plain", Shared, nil); true {
			if _, err := os.Lstat(d.Path + "/dir/file"); err != nil {
				t.Error(err)
			}
			must(t, d.Close())
		}
	})
}

// A directory that was not opened since is not written again, unless somebody wants it.
func TestUnchangedDirectoryIsCopiedOnce(t *testing.T) {
	s := open(t, "")
	d := s.dir("k", Shared, nil)
	write(t, d.Path+"/f", "1")
	must(t, d.Close())
	first := s.copy(s.only("k"), Shared)
	if len(s.copies()) != 1 {
		t.Errorf("copies: %v", s.copies())
	}
	must(t, first.Close())
	s.reopen()
	again := s.copy(s.only("k"), Shared)
	if len(s.copies()) != 0 || again.Blob.Digest != first.Blob.Digest || again.Blob.Size != first.Blob.Size || again.DiffID != first.DiffID {
		t.Errorf("copies: %v; %+v, then %+v", s.copies(), first.Blob, again.Blob)
	}
	for range 2 {
		rc, err := again.Open(t.Context())
		must(t, err)
		b, err := io.ReadAll(rc)
		must(t, err)
		must(t, rc.Close())
		if again.Blob.Digest.Algorithm().FromBytes(b) != again.Blob.Digest {
			t.Error("what was read is something else")
		}
	}
	must(t, again.Close())
	if len(s.copies()) != 0 {
		t.Errorf("left: %v", s.copies())
	}

	d = s.dir("k", Shared, nil)
	e := s.dir("k", Shared, nil) // also who joins counts
	busy := s.copy(s.only("k"), Shared)
	write(t, e.Path+"/f", "2")
	must(t, d.Close())
	must(t, e.Close())
	now := s.copy(s.only("k"), Shared)
	if busy.Blob.Digest != first.Blob.Digest || now.Blob.Digest == first.Blob.Digest {
		t.Error("a change was not seen")
	}

	// The files have changed behind our back, and somebody wants the bytes.
	again = s.copy(s.only("k"), Shared)
	must(t, now.Close())
	write(t, s.alloc.path(s.row(t, "k").Slot)+"/f", "3")
	if _, err := again.Open(t.Context()); err == nil {
		t.Error("another content was given out under the digest")
	}
	if c := s.copy(s.only("k"), Shared); c.Blob.Digest == again.Blob.Digest {
		t.Error("the wrong copy is still remembered")
	}
}

func (s *storeTest) row(t *testing.T, key string) dirRow {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.dirs[dirSeries(key, TypeCacheMount, nil)]
	if st == nil {
		t.Fatal("not open since")
	}
	return st.row
}

func TestCopySharing(t *testing.T) {
	s := open(t, "")
	d := s.dir("k", Locked, nil)
	write(t, d.Path+"/f", "1")
	i := s.only("k")
	if _, err := s.CopyDir(t.Context(), i, Private, nil); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.CopyDir(ctx, i, Locked, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	done := make(chan error)
	go func() {
		c, err := s.CopyDir(t.Context(), i, Locked, nil)
		if err == nil {
			err = c.Close()
		}
		done <- err
	}()
	must(t, d.Close())
	must(t, <-done)

	// Of those that stand in for each other, the one used last comes first.
	p := s.dir("k", Private, nil)
	q := s.dir("k", Private, nil)
	write(t, q.Path+"/f", "2")
	must(t, p.Close())
	must(t, q.Close())
	dirs, err := s.Dirs(t.Context(), "k", TypeCacheMount)
	must(t, err)
	if len(dirs) != 2 || !dirs[0].LastUsed.After(dirs[1].LastUsed) {
		t.Errorf("got %+v", dirs)
	}
	if others, err := s.Dirs(t.Context(), "k", TypeLocal); err != nil || len(others) > 0 {
		t.Errorf("of another type: %v, %v", others, err)
	}

	must(t, s.DropDir(t.Context(), "k", TypeCacheMount, nil))
	for _, i := range dirs {
		c, err := s.CopyDir(t.Context(), i, Shared, nil)
		if err == nil {
			must(t, c.Close())
		} else if !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	}
	if e := s.dir("empty", Shared, nil); true {
		must(t, e.Close())
		if !s.only("empty").Empty {
			t.Error("a directory with nothing in it is not empty")
		}
	}
}

// Processes go on writing, renaming and removing while a shared directory is copied, and
// put links to other places where directories were.
func TestCopyWhileOthersWrite(t *testing.T) {
	s := open(t, "")
	secret := t.TempDir()
	write(t, secret+"/d/secret", "secret")
	d := s.dir("k", Shared, nil)
	for i := range 20 {
		write(t, fmt.Sprintf("%s/a%d/d/f", d.Path, i), strings.Repeat("x", 1000))
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for n := range 3 {
		wg.Go(func() {
			for i := n; ; i += 7 {
				select {
				case <-stop:
					return
				default:
				}
				dir := fmt.Sprintf("%s/a%d", d.Path, i%20)
				switch n {
				case 0:
					_ = os.Rename(dir, dir+"-")
					_ = os.Symlink(secret, dir)
					_ = os.Remove(dir)
					_ = os.Rename(dir+"-", dir)
				case 1:
					_ = os.Truncate(dir+"/d/f", int64(i%1000))
				case 2:
					_ = os.Remove(dir + "/d/f")
					_ = os.WriteFile(dir+"/d/f", []byte(strings.Repeat("y", i%2000)), 0o600)
					_ = os.Link(dir+"/d/f", dir+"/d/g")
				}
			}
		})
	}
	i := s.only("k")
	for n := range 10 {
		c := s.copy(i, Shared)
		there := fmt.Sprint("copy", n)
		must(t, s.plant(there, nil, s.seed(c)))
		must(t, c.Close())
		got := s.dir(there, Shared, nil)
		must(t, filepath.WalkDir(got.Path, func(path string, e os.DirEntry, err error) error {
			if err == nil && e.Name() == "secret" {
				t.Errorf("%s was copied from outside", path)
			}
			return err
		}))
		must(t, got.Close())
	}
	close(stop)
	wg.Wait()
	must(t, d.Close())
}

// Several want the directory at once: it is read once, and all see all of it.
func TestSeedOnce(t *testing.T) {
	here, there := open(t, ""), open(t, "")
	d := here.dir("k", Shared, nil)
	write(t, d.Path+"/f", "1")
	must(t, d.Close())
	c := here.copy(here.only("k"), Shared)
	var reads atomic.Int32
	begun, goOn := make(chan struct{}), make(chan struct{})
	seed := there.seed(c)
	seed.Open = func(ctx context.Context) (io.ReadCloser, error) {
		if reads.Add(1) == 1 {
			close(begun)
			<-goOn
		}
		return c.Open(ctx)
	}
	// One that was opened and left empty is no reason to do without.
	must(t, there.dir("k", Shared, nil).Close())
	var wg sync.WaitGroup
	for _, sharing := range []Sharing{Shared, Locked, Shared, Private} {
		wg.Go(func() {
			if err := there.plant("k", nil, seed); err != nil {
				t.Error(err)
				return
			}
			d, err := there.OpenDir(t.Context(), "k", Desc{Type: TypeCacheMount}, sharing, nil, Access{})
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			if _, err := os.Lstat(d.Path + "/f"); err != nil && sharing != Private {
				t.Error(err)
			}
		})
	}
	<-begun
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if err := there.SeedDir(ctx, "k", Desc{Type: TypeCacheMount}, nil, seed, Access{}); err == nil || err.Error() != "enough" {
		t.Errorf("waiting was not given up: %v", err)
	}
	close(goOn)
	wg.Wait()
	if n := reads.Load(); n != 1 {
		t.Errorf("read %d times", n)
	}
	if i := there.record(t); i.Description != "" || i.Type != TypeCacheMount || i.Size == 0 {
		t.Errorf("du says %+v", i)
	}
}

// record is the record of the directory k.
func (s *storeTest) record(t *testing.T) Record {
	recs, err := s.Usage(t.Context(), []string{"type==" + TypeCacheMount})
	must(t, err)
	for _, r := range recs {
		if r.ID == s.row(t, "k").ID {
			return r
		}
	}
	t.Fatalf("not among %+v", recs)
	return Record{}
}

// What cannot be read, or is something else, leaves nothing, and the next one is tried.
func TestSeedThatFails(t *testing.T) {
	here, there := open(t, ""), open(t, "")
	d := here.dir("k", Shared, nil)
	write(t, d.Path+"/f", strings.Repeat("1", 1<<16))
	must(t, d.Close())
	c := here.copy(here.only("k"), Shared)
	rc, err := c.Open(t.Context())
	must(t, err)
	blob, err := io.ReadAll(rc)
	must(t, err)
	must(t, rc.Close())
	serve := func(b []byte, err error) func(context.Context) (io.ReadCloser, error) {
		return func(context.Context) (io.ReadCloser, error) {
			if err != nil {
				return nil, err
			}
			return io.NopCloser(bytes.NewReader(b)), nil
		}
	}
	flipped := bytes.Clone(blob)
	flipped[len(blob)/2] ^= 1
	good := there.seed(c)
	for name, change := range map[string]func(*Seed){
		"gone":       func(s *Seed) { s.Open = serve(nil, errdefs.ErrNotFound) },
		"flipped":    func(s *Seed) { s.Open = serve(flipped, nil) },
		"truncated":  func(s *Seed) { s.Open = serve(blob[:len(blob)-1], nil) },
		"longer":     func(s *Seed) { s.Open = serve(append(bytes.Clone(blob), 0), nil) },
		"no digest":  func(s *Seed) { s.Blob.Digest = "sha256:1" },
		"no diff ID": func(s *Seed) { s.DiffID = "" },
		"other files": func(s *Seed) {
			s.DiffID = dgstOf("another")
		},
		"no archive": func(s *Seed) {
			s.Blob = ocispec.Descriptor{Digest: dgstOf("text"), Size: 4}
			s.Open = serve([]byte("text"), nil)
		},
		"another hash": func(s *Seed) { s.Blob.Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" },
	} {
		bad := good
		change(&bad)
		if err := there.plant("k", nil, bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if recs, err := there.Usage(t.Context(), nil); err != nil || len(recs) > 0 {
		t.Errorf("left: %+v, %v", recs, err)
	}
	must(t, there.plant("k", nil, good))
	d = there.dir("k", Shared, nil)
	if b, err := os.ReadFile(d.Path + "/f"); err != nil || len(b) != 1<<16 {
		t.Error(len(b), err)
	}
	must(t, d.Close())
}

// seedAndDie runs in a child: it dies while a directory is being seeded, or right after.
func seedAndDie(how string) {
	s, err := Open(context.Background(), Config{Root: os.Getenv(crashEnv)})
	if err != nil {
		panic(err)
	}
	blob, err := os.ReadFile(os.Getenv("SNAPSHOT_CRASH_BLOB"))
	if err != nil {
		panic(err)
	}
	err = s.SeedDir(context.Background(), "k", Desc{Type: TypeCacheMount}, nil, Seed{
		Name: "k", DiffID: dgst(os.Getenv("SNAPSHOT_CRASH_DIFFID")),
		Blob: ocispec.Descriptor{Digest: dgstOf(string(blob)), Size: int64(len(blob))},
		Open: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(&dyingReader{bytes.NewReader(blob), how == "seeding"}), nil
		},
	}, Access{})
	if err != nil {
		panic(err)
	}
	os.Exit(0) // sooner than the row is written
}

type dyingReader struct {
	r    *bytes.Reader
	dies bool
}

func (r *dyingReader) Read(p []byte) (int, error) {
	if r.dies && r.r.Len() == 0 {
		os.Exit(0) // all but the end has been unpacked
	}
	return r.r.Read(p)
}

func TestCrashWhileSeeding(t *testing.T) {
	here := open(t, "")
	d := here.dir("k", Shared, nil)
	for i := range 20 {
		write(t, fmt.Sprintf("%s/f%d", d.Path, i), "x")
	}
	must(t, d.Close())
	c := here.copy(here.only("k"), Shared)
	_, err := c.Open(t.Context())
	must(t, err)
	for _, how := range []string{"seeding", "seeded"} {
		there := t.TempDir()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+there, "SNAPSHOT_CRASH_HOW="+how, "SNAPSHOT_CRASH_BLOB="+c.path, "SNAPSHOT_CRASH_DIFFID="+c.DiffID.String())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		s, err := Open(t.Context(), Config{Root: there})
		must(t, err)
		must(t, s.Check(t.Context()))
		d, err := s.OpenDir(t.Context(), "k", Desc{Type: TypeCacheMount}, Shared, nil, Access{})
		must(t, err)
		names, err := os.ReadDir(d.Path)
		must(t, err)
		if whole := !d.Fresh && how == "seeded"; whole && len(names) != 20 || !whole && (!d.Fresh || len(names) > 0) {
			t.Errorf("%s: %d files, fresh: %v", how, len(names), d.Fresh)
		}
		must(t, d.Close())
		must(t, s.Close())
	}
}
