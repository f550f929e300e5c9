package fileop

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

func (w *world) stat(p string) (fs.FileMode, uint32, time.Time) {
	w.t.Helper()
	fi, err := os.Lstat(filepath.Join(w.upper, p))
	if err != nil {
		w.t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(w.upper, p), &st); err != nil {
		w.t.Fatal(err)
	}
	return fi.Mode(), st.Uid, fi.ModTime()
}

// What Dockerfiles say: wildcards allowed, none in the name.
func TestMissingSourceFailsAlthoughWildcardsMayBeEmpty(t *testing.T) {
	w := newWorld(t)
	w.put(w.src, "f", "F")
	for _, src := range []string{"/missing", "/no/such/*.txt", "/f/x"} {
		var missing *NotFoundError
		if err := w.run(cp(src, "/x/"), Options{}); !errors.As(err, &missing) {
			t.Errorf("%s: got %v, want a NotFoundError", src, err)
		}
	}
	w.must(cp("/*.txt", "/x/"), Options{})
}

func TestRequiredPaths(t *testing.T) {
	w := newWorld(t)
	w.put(w.src, "a/f", "F")
	need := func(p string) *pb.FileAction {
		return cp("/", "/x/", func(c *pb.FileActionCopy) { c.IncludePatterns, c.RequiredPaths = []string{p}, []string{"/" + p} })
	}
	w.must(need("a/f"), Options{})
	var missing *NotFoundError
	if err := w.run(need("a/g"), Options{}); !errors.As(err, &missing) || missing.Path != "/a/g" {
		t.Errorf("got %v", err)
	}
}

func TestMkdirOfWhatExistsChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.put(w.lower, "d/x", "X")
	w.must(&pb.FileAction{Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/d", Mode: 0o700, Timestamp: -1}}}, Options{})
	w.want("d/ d/x=X")
}

func TestRmOfWildcardWithoutMatchSucceeds(t *testing.T) {
	w := newWorld(t)
	w.put(w.lower, "f", "F")
	w.must(&pb.FileAction{Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: "/*.log", AllowWildcard: true}}}, Options{})
	var missing *NotFoundError
	err := w.run(&pb.FileAction{Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: "/g", AllowWildcard: true}}}, Options{})
	if !errors.As(err, &missing) {
		t.Errorf("got %v", err)
	}
}

func TestSymlinkReplacesNothing(t *testing.T) {
	w := newWorld(t)
	w.put(w.lower, "f", "F")
	if err := w.run(&pb.FileAction{Action: &pb.FileAction_Symlink{Symlink: &pb.FileActionSymlink{Oldpath: "x", Newpath: "/f", Timestamp: -1}}}, Options{}); err == nil {
		t.Error("a link replaced a file")
	}
	w.want("f=F")
}

func TestDirectoryMadeForContentsHasDefaultMode(t *testing.T) {
	w := newWorld(t)
	w.put(w.src, "d/f", "F")
	when := time.Unix(77, 0)
	if err := os.Chmod(filepath.Join(w.src, "d"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(w.src, "d"), when, when); err != nil {
		t.Fatal(err)
	}
	w.must(cp("/d", "/new"), Options{})
	if mode, _, mtime := w.stat("new"); mode != fs.ModeDir|0o755 || !mtime.Equal(when) {
		t.Errorf("contents of a directory: %v %v", mode, mtime)
	}
	w.must(cp("/d", "/whole", func(c *pb.FileActionCopy) { c.DirCopyContents = false }), Options{})
	if mode, _, _ := w.stat("whole"); mode != fs.ModeDir|0o700 {
		t.Errorf("a whole directory: %v", mode)
	}
	w.must(cp("/d/f", "/p/f", func(c *pb.FileActionCopy) { c.Mode = 0o4711 }), Options{})
	if mode, _, _ := w.stat("p"); mode != fs.ModeDir|0o711 {
		t.Errorf("a parent: %v", mode)
	}
}

func TestOverwrittenDirectoryGetsTheSourcesOwner(t *testing.T) {
	w := newWorld(t)
	w.put(w.src, "s/d/f", "F")
	w.put(w.lower, "d/", "/")
	if err := os.Chown(filepath.Join(w.lower, "d"), 7, 8); err != nil {
		t.Fatal(err)
	}
	w.must(cp("/s", "/"), Options{})
	if _, uid, _ := w.stat("d"); uid != 0 {
		t.Errorf("owned by %d, want root as in the source", uid)
	}
}

// A directory that only leads to included files keeps its owner if it is there.
func TestIncludedFilesLeaveTheOwnerOfDirectoriesOnTheWay(t *testing.T) {
	w := newWorld(t)
	w.put(w.src, "d/f", "F")
	w.put(w.lower, "d/", "/")
	w.must(cp("/", "/", func(c *pb.FileActionCopy) { c.IncludePatterns = []string{"d/f"}; c.Mode = 0o600 }), Options{Owner: &Owner{7, 8}})
	if mode, uid, _ := w.stat("d"); uid != 0 || mode != fs.ModeDir|0o755 {
		t.Errorf("%v of %d", mode, uid)
	}
	if _, uid, _ := w.stat("d/f"); uid != 7 {
		t.Errorf("the file is of %d", uid)
	}
}

func TestIncludedEmptyDirectoryDoesNotFitOnAFile(t *testing.T) {
	w := newWorld(t)
	w.put(w.src, "d", "/")
	w.put(w.lower, "d", "a file")
	if err := w.run(cp("/", "/", func(c *pb.FileActionCopy) { c.IncludePatterns = []string{"d"} }), Options{}); err == nil {
		t.Error("a directory was copied onto a file")
	}
}

// An archive may link to what the image has, and gives its own owners to directories.
func TestUnpackOntoWhatIsThere(t *testing.T) {
	w := newWorld(t)
	w.put(w.lower, "out/d/old", "O")
	if err := os.Chown(filepath.Join(w.lower, "out/d"), 7, 8); err != nil {
		t.Fatal(err)
	}
	w.put(w.src, "x.tar", archive(t, false,
		&tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755},
		&tar.Header{Name: "new", Typeflag: tar.TypeLink, Linkname: "d/old"},
		&tar.Header{Name: "new", Typeflag: tar.TypeLink, Linkname: "new"},
	))
	w.must(cp("/x.tar", "/out/", func(c *pb.FileActionCopy) { c.AttemptUnpackDockerCompatibility = true }), Options{})
	w.want("out/ out/d/ out/d/old=O out/new=O")
	if _, uid, _ := w.stat("out/d"); uid != 0 {
		t.Errorf("owned by %d, want root as in the archive", uid)
	}
}
