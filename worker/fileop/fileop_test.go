package fileop

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

// host is a directory of the machine as a tree.
type host struct{ *Dest }

func dirFS(t *testing.T, root string) host { return host{NewDest(root, nil)} }

func (h host) Open(p string) (io.ReadCloser, error) { return os.Open(h.host(p)) }
func (h host) HostPath(p string) (string, error)    { return h.Dest.host(p), nil }

// world is a lower and an upper directory with what an overlay mount of both shows.
type world struct {
	t            *testing.T
	lower, upper string
	dest         *Dest
	src          string
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, lower: t.TempDir(), upper: t.TempDir(), src: t.TempDir()}
	w.dest = NewDest(w.upper, dirFS(t, w.lower))
	return w
}

func (w *world) put(root string, files ...string) {
	w.t.Helper()
	for i := 0; i < len(files); i += 2 {
		p := filepath.Join(root, files[i])
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			w.t.Fatal(err)
		}
		var err error
		if link, ok := strings.CutPrefix(files[i+1], "-> "); ok {
			err = os.Symlink(link, p)
		} else if files[i+1] == "/" {
			err = os.MkdirAll(p, 0o755)
		} else {
			err = os.WriteFile(p, []byte(files[i+1]), 0o644)
		}
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) run(a *pb.FileAction, o Options) error {
	if o.Source == nil {
		o.Source = dirFS(w.t, w.src)
	}
	return Run(context.Background(), w.dest, a, o)
}

func (w *world) must(a *pb.FileAction, o Options) {
	w.t.Helper()
	if err := w.run(a, o); err != nil {
		w.t.Fatal(err)
	}
}

// shows mounts upper over lower for real and lists what is there.
func (w *world) shows() string {
	w.t.Helper()
	root := filepath.Join(w.t.TempDir(), "root")
	work := filepath.Join(filepath.Dir(w.upper), "work-"+filepath.Base(w.upper))
	for _, d := range []string{root, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			w.t.Fatal(err)
		}
	}
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", w.lower, w.upper, work)
	if err := unix.Mount("overlay", root, "overlay", 0, opts); err != nil {
		w.t.Fatal(err)
	}
	defer unix.Unmount(root, unix.MNT_DETACH)
	var out []string
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || p == root {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		switch {
		case e.IsDir():
			out = append(out, rel+"/")
		case e.Type()&fs.ModeSymlink != 0:
			l, _ := os.Readlink(p)
			out = append(out, rel+"->"+l)
		default:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			out = append(out, rel+"="+string(b))
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Join(out, " ")
}

func (w *world) want(want string) {
	w.t.Helper()
	if got := w.shows(); got != want {
		w.t.Errorf("got  %s\nwant %s", got, want)
	}
}

func cp(src, dest string, change ...func(*pb.FileActionCopy)) *pb.FileAction {
	c := &pb.FileActionCopy{
		Src: src, Dest: dest, Mode: -1, Timestamp: -1, FollowSymlink: true, DirCopyContents: true, CreateDestPath: true,
		AllowWildcard: true, AllowEmptyWildcard: true,
	}
	for _, f := range change {
		f(c)
	}
	return &pb.FileAction{Action: &pb.FileAction_Copy{Copy: c}}
}

func TestCopyDestinations(t *testing.T) {
	for _, c := range []struct {
		name, src, dest string
		lower           []string
		want            string
	}{
		{"file to a name", "/f", "/x", nil, "x=F"},
		{"file to a directory that is there", "/f", "/d", []string{"d", "/"}, "d/ d/f=F"},
		{"file to a name with a slash", "/f", "/n/", nil, "n/ n/f=F"},
		{"file to a deep name", "/f", "/n/m/x", nil, "n/ n/m/ n/m/x=F"},
		{"directory to a new name", "/d", "/x", nil, "x/ x/a=A x/s/ x/s/b=B"},
		{"directory to a directory", "/d", "/x", []string{"x/old", "O"}, "x/ x/a=A x/old=O x/s/ x/s/b=B"},
		{"all of the context", "/", "/x/", nil, "x/ x/d/ x/d/a=A x/d/s/ x/d/s/b=B x/f=F x/l->f"},
		{"wildcard", "/d/*", "/x/", nil, "x/ x/a=A x/b=B"},
		{"wildcard that matches nothing", "/no*", "/x/", nil, ""},
		{"a link's target", "/l", "/x", nil, "x=F"},
		{"over a file", "/f", "/o", []string{"o", "old"}, "o=F"},
		{"through a link of the image", "/f", "/link/", []string{"real/", "/", "link", "-> real"}, "link->real real/ real/f=F"},
		{"through an absolute link", "/f", "/link/x", []string{"real/", "/", "link", "-> /real"}, "link->/real real/ real/x=F"},
		{"through a link that leads out", "/f", "/link/x", []string{"link", "-> ../../../../out"}, "link->../../../../out out/ out/x=F"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.put(w.src, "f", "F", "d/a", "A", "d/s/b", "B", "l", "-> f")
			w.put(w.lower, c.lower...)
			w.must(cp(c.src, c.dest), Options{})
			w.want(c.want)
		})
	}
}

func TestCopyRefuses(t *testing.T) {
	w := newWorld(t)
	w.put(w.src, "f", "F", "d/a", "A")
	w.put(w.lower, "dir/x", "X", "file", "Y")
	err := w.run(cp("/missing", "/x", func(c *pb.FileActionCopy) { c.AllowWildcard, c.AllowEmptyWildcard = false, false }), Options{})
	var missing *NotFoundError
	if !errors.As(err, &missing) || missing.Path != "/missing" || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing source: %v", err)
	}
	if err := w.run(cp("/d", "/file"), Options{}); err == nil {
		t.Error("a directory was copied onto a file")
	}
	if err := w.run(cp("/f", "/file/x"), Options{}); err == nil {
		t.Error("a file was copied into a file")
	}
	if err := w.run(cp("/f", "/a/b", func(c *pb.FileActionCopy) { c.CreateDestPath = false }), Options{}); err == nil {
		t.Error("a parent was made that should be there")
	}
	if err := w.run(cp("/f", "/", func(c *pb.FileActionCopy) { c.ModeStr = "nonsense" }), Options{}); err == nil {
		t.Error("a mode that is none was taken")
	}
}

func TestCopyMetadata(t *testing.T) {
	w := newWorld(t)
	w.put(w.src, "f", "F", "d/a", "A")
	when := time.Unix(1234567, 0)
	for _, p := range []string{"f", "d/a", "d"} {
		if err := os.Chtimes(filepath.Join(w.src, p), when, when); err != nil {
			t.Fatal(err)
		}
	}
	w.must(cp("/", "/kept/"), Options{})
	w.must(cp("/", "/set/", func(c *pb.FileActionCopy) { c.Mode = 0o4710; c.Timestamp = 42e9 }), Options{Owner: &Owner{7, 8}})
	w.must(cp("/", "/sym/", func(c *pb.FileActionCopy) { c.ModeStr = "u=rwX,go=rX" }), Options{})
	check := func(p string, mode fs.FileMode, uid uint32, mtime time.Time) {
		t.Helper()
		fi, err := os.Lstat(filepath.Join(w.upper, p))
		if err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(w.upper, p), &st); err != nil {
			t.Fatal(err)
		}
		if fi.Mode() != mode || st.Uid != uid || !fi.ModTime().Equal(mtime) {
			t.Errorf("%s: %v uid %d %v; want %v uid %d %v", p, fi.Mode(), st.Uid, fi.ModTime(), mode, uid, mtime)
		}
	}
	check("kept/f", 0o644, 0, when)
	check("kept/d", fs.ModeDir|0o755, 0, when)
	check("set/f", fs.ModeSetuid|0o710, 7, time.Unix(42, 0))
	check("set/d", fs.ModeDir|fs.ModeSetuid|0o710, 7, time.Unix(42, 0))
	check("sym/f", 0o644, 0, when)
	check("sym/d", fs.ModeDir|0o755, 0, when)
}

// Files that are not changed on the way share their inode with the source; others do not.
func TestLinks(t *testing.T) {
	w := newWorld(t)
	w.put(w.src, "f", "F")
	inode := func(p string) uint64 {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			t.Fatal(err)
		}
		return st.Ino
	}
	src := inode(filepath.Join(w.src, "f"))
	w.must(cp("/f", "/linked"), Options{Link: always})
	w.must(cp("/f", "/copied"), Options{})
	w.must(cp("/f", "/owned"), Options{Link: always, Owner: &Owner{1, 1}})
	for name, want := range map[string]bool{"linked": true, "copied": false, "owned": false} {
		if got := inode(filepath.Join(w.upper, name)) == src; got != want {
			t.Errorf("%s shares the inode: %v", name, got)
		}
	}
}

func TestPatterns(t *testing.T) {
	w := newWorld(t)
	w.put(w.src, "a.go", "1", "a.md", "2", "s/b.go", "3", "s/b.md", "4", "t/c.md", "5", "e", "/")
	w.must(cp("/", "/x/", func(c *pb.FileActionCopy) { c.ExcludePatterns = []string{"**/*.md"} }), Options{})
	w.want("x/ x/a.go=1 x/e/ x/s/ x/s/b.go=3 x/t/")
	w = newWorld(t)
	w.put(w.src, "a.go", "1", "a.md", "2", "s/b.go", "3", "s/b.md", "4", "t/c.md", "5", "e", "/")
	w.must(cp("/", "/x/", func(c *pb.FileActionCopy) { c.IncludePatterns = []string{"**/*.go", "t"} }), Options{})
	w.want("x/ x/a.go=1 x/s/ x/s/b.go=3 x/t/ x/t/c.md=5")
}

func TestRemoveAndMakeAgain(t *testing.T) {
	rm := func(p string, wild bool) *pb.FileAction {
		return &pb.FileAction{Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: p, AllowWildcard: wild}}}
	}
	mk := func(p string) *pb.FileAction {
		return &pb.FileAction{Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: p, Mode: 0o755, MakeParents: true, Timestamp: -1}}}
	}
	w := newWorld(t)
	w.put(w.lower, "d/x", "X", "d/y", "Y", "f", "F", "g.log", "G", "h.log", "H", "l", "-> d")
	w.put(w.src, "n", "N")
	w.must(rm("/d", false), Options{})
	w.must(mk("/d"), Options{})
	w.must(cp("/n", "/d/n"), Options{})
	w.must(rm("/f", false), Options{})
	w.must(rm("/*.log", true), Options{})
	w.must(cp("/n", "/f"), Options{})
	w.must(rm("/f", false), Options{})
	w.must(rm("/l", false), Options{})
	w.want("d/ d/n=N")
	var missing *NotFoundError
	if err := w.run(rm("/f", false), Options{}); !errors.As(err, &missing) {
		t.Errorf("removed twice: %v", err)
	}
	if err := w.run(rm("/d/x", false), Options{}); !errors.As(err, &missing) {
		t.Errorf("removed what is hidden: %v", err)
	}
	if err := w.run(rm("/", false), Options{}); err == nil {
		t.Error("the root was removed")
	}
}

func TestMkfileAndSymlink(t *testing.T) {
	w := newWorld(t)
	w.put(w.lower, "etc/old", "O")
	w.must(&pb.FileAction{Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: "/etc/new", Mode: 0o600, Data: []byte("N"), Timestamp: -1}}}, Options{})
	w.must(&pb.FileAction{Action: &pb.FileAction_Symlink{Symlink: &pb.FileActionSymlink{Oldpath: "etc/new", Newpath: "/s", Timestamp: -1}}}, Options{})
	w.want("etc/ etc/new=N etc/old=O s->etc/new")
	if err := w.run(&pb.FileAction{Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: "/no/dir", Timestamp: -1}}}, Options{}); err == nil {
		t.Error("a file was made in a directory that is not there")
	}
}

// A directory that files are added to keeps its time, owner and mode.
func TestParentsKeepTheirMetadata(t *testing.T) {
	w := newWorld(t)
	w.put(w.lower, "d/x", "X")
	w.put(w.src, "f", "F")
	old := time.Unix(1000, 5000)
	if err := os.Chown(filepath.Join(w.lower, "d"), 5, 6); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(w.lower, "d"), old, old); err != nil {
		t.Fatal(err)
	}
	w.must(cp("/f", "/d/f"), Options{})
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(w.upper, "d"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Uid != 5 || st.Gid != 6 || !time.Unix(st.Mtim.Unix()).Equal(old) {
		t.Errorf("owner %d:%d, time %v", st.Uid, st.Gid, st.Mtim)
	}
}

func archive(t *testing.T, zip bool, entries ...*tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	var out io.WriteCloser = struct {
		io.Writer
		io.Closer
	}{&b, io.NopCloser(nil)}
	if zip {
		out = gzip.NewWriter(&b)
	}
	w := tar.NewWriter(out)
	for _, h := range entries {
		body := h.Uname
		h.Uname = ""
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(body))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, body); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if zip {
		if err := out.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func TestUnpack(t *testing.T) {
	unpack := func(c *pb.FileActionCopy) { c.AttemptUnpackDockerCompatibility = true }
	for _, zip := range []bool{false, true} {
		w := newWorld(t)
		w.put(w.lower, "lib", "-> usr/lib", "usr/lib/old", "O")
		w.put(w.src, "x.tar", archive(t, zip,
			&tar.Header{Name: "lib/", Typeflag: tar.TypeDir, Mode: 0o755},
			&tar.Header{Name: "a/b/f", Typeflag: tar.TypeReg, Mode: 0o640, Uname: "F"},
			&tar.Header{Name: "a/hard", Typeflag: tar.TypeLink, Linkname: "a/b/f"},
			&tar.Header{Name: "a/soft", Typeflag: tar.TypeSymlink, Linkname: "../../../etc"},
			&tar.Header{Name: "a/soft/through", Typeflag: tar.TypeReg, Mode: 0o600, Uname: "T"},
			&tar.Header{Name: "../../escape", Typeflag: tar.TypeReg, Mode: 0o600, Uname: "E"},
		), "plain", "just text")
		w.must(cp("/plain", "/p/", unpack), Options{})
		w.must(cp("/x.tar", "/out/", unpack), Options{})
		if zip {
			continue
		}
		got := w.shows()
		for _, s := range []string{"out/a/b/f=F", "out/a/hard=F", "out/escape=E", "out/etc/through=T", "p/plain=just text"} {
			if !strings.Contains(got, s) {
				t.Errorf("no %s in %s", s, got)
			}
		}
	}
}

// A device 0:0 would hide what is beneath it.
func TestUnpackWhiteout(t *testing.T) {
	w := newWorld(t)
	w.put(w.lower, "out/f", "F")
	w.put(w.src, "x.tar", archive(t, false, &tar.Header{Name: "f", Typeflag: tar.TypeChar, Mode: 0o600}))
	unpack := func(c *pb.FileActionCopy) { c.AttemptUnpackDockerCompatibility = true }
	if err := w.run(cp("/x.tar", "/out/", unpack), Options{}); err == nil || !strings.Contains(err.Error(), "f: the character device 0:0") {
		t.Errorf("got %v", err)
	}
}

func TestLookUp(t *testing.T) {
	w := newWorld(t)
	w.put(w.lower, "etc/passwd", "root:x:0:0::/:/bin/sh\nann:x:5:6::/:/bin/sh\n", "etc/group", "staff:x:9:\n")
	files := func(int64) (treehash.FS, error) { return dirFS(t, w.lower), nil }
	name := func(n string) *pb.UserOpt {
		return &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: n}}}
	}
	id := func(n uint32) *pb.UserOpt { return &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: n}} }
	for _, c := range []struct {
		user, group *pb.UserOpt
		want        string
	}{
		{name("ann"), nil, "5:6"}, {name("ann"), name("staff"), "5:9"}, {id(3), nil, "3:3"}, {id(3), id(4), "3:4"},
		{name("nobody"), nil, "error"}, {id(1), name("nogroup"), "error"},
	} {
		got := "error"
		if o, err := LookUp(&pb.ChownOpt{User: c.user, Group: c.group}, files); err == nil {
			got = fmt.Sprintf("%d:%d", o.UID, o.GID)
		}
		if got != c.want {
			t.Errorf("%v %v: %s, want %s", c.user, c.group, got, c.want)
		}
	}
	if o, err := LookUp(nil, files); o != nil || err != nil {
		t.Errorf("nothing said: %v, %v", o, err)
	}
}

func BenchmarkCopyTree(b *testing.B) {
	src := b.TempDir()
	for i := range 1000 {
		dir := filepath.Join(src, fmt.Sprint(i/100))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), make([]byte, 1024), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	for name, link := range map[string]func(string) bool{"link": always, "copy": nil} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				d := NewDest(b.TempDir(), nil)
				if err := Run(context.Background(), d, cp("/", "/x/"), Options{Source: host{NewDest(src, nil)}, Link: link}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func always(string) bool { return true }
