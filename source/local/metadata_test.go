package local

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/dbuild/dbuild/session"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// paths reads a MetadataFile.
func paths(t *testing.T, b []byte) (names []string) {
	t.Helper()
	for len(b) > 0 {
		n := binary.LittleEndian.Uint32(b)
		var st types.Stat
		if err := st.UnmarshalVT(b[4 : 4+n]); err != nil {
			t.Fatal(err)
		}
		if len(st.Xattrs) > 0 {
			t.Errorf("%s has the attributes %v", st.Path, st.Xattrs)
		}
		names = append(names, st.Path)
		b = b[4+n:]
	}
	return names
}

func TestMetadata(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	for _, name := range []string{"dir/[1]", "dir/2", "dir/sub/1", "dir/sub2/3", "foo"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	tree, err := fsutil.NewFS(dir)
	must(t, err)
	g := session.NewGroup(w.join("key", map[string]fsutil.FS{"ctx": tree}).ID())
	for _, tc := range []struct {
		req    Request
		except []string
		list   []string
		ok     bool
		want   []string // include patterns of the files
	}{
		{Request{}, []string{"foo"}, []string{"dir", "dir/2", "dir/[1]", "dir/sub", "dir/sub/1", "dir/sub2", "dir/sub2/3", "foo"}, true, []string{"foo"}},
		{Request{}, nil, []string{"dir", "dir/2", "dir/[1]", "dir/sub", "dir/sub/1", "dir/sub2", "dir/sub2/3", "foo"}, false, nil},
		{Request{Include: []string{"dir"}, Exclude: []string{"dir/sub2"}}, []string{"foo", "dir/*1*"}, []string{"dir", "dir/2", "dir/[1]", "dir/sub", "dir/sub/1"}, true, []string{`dir/\[1\]`}},
		{Request{Include: []string{"foo"}}, []string{"dir"}, []string{"foo"}, false, nil},
	} {
		tc.req.Name = "ctx"
		list, files, ok, err := w.src.Metadata(t.Context(), g, tc.req, tc.except)
		if err != nil {
			t.Fatal(err)
		}
		if got := paths(t, list); !slices.Equal(got, tc.list) || ok != tc.ok || ok && !slices.Equal(files.Include, tc.want) {
			t.Errorf("%+v: got %q, %v, %q", tc.req, got, ok, files.Include)
		}
	}
	if _, _, _, err := w.src.Metadata(t.Context(), g, Request{Name: "ctx"}, []string{"["}); err == nil {
		t.Error("a bad pattern was accepted")
	}
}

// A client that says nothing about versions is asked for every file, unless the time counts.
func TestDiffer(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	then := time.Unix(1e9, 0)
	write := func(content string) {
		must(t, os.WriteFile(filepath.Join(dir, "f"), []byte(content), 0o644))
		must(t, os.Chtimes(filepath.Join(dir, "f"), then, then))
	}
	tree, err := fsutil.NewFS(dir)
	must(t, err)
	s := w.join("key", map[string]fsutil.FS{"ctx": tree})
	for _, tc := range []struct {
		differ Differ
		want   string
	}{{DifferMetadata, "one"}, {DifferNone, "two"}, {DifferDefault, "two"}} {
		write("one")
		req := Request{Name: "ctx", SharedKeyHint: string(tc.differ), Differ: tc.differ}
		w.sync(s, req).Release()
		write("two")
		second := w.sync(s, req)
		if got := read(t, second); got["f"] != tc.want {
			t.Errorf("differ %q: got %v", tc.differ, got)
		}
		second.Release()
	}
}
