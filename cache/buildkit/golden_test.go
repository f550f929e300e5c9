package buildkit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	fstypes "github.com/tonistiigi/fsutil/types"
	"google.golang.org/protobuf/encoding/protojson"
)

// The files in testdata were recorded from the code of BuildKit v0.33.1: steps.json from the
// cache maps of its operations, sums.json from its content hash of the tree below, on disk.

func readGolden(t *testing.T, name string, into any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err == nil {
		err = json.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestStepsAreNamedAsByBuildKit(t *testing.T) {
	var cases map[string]struct {
		Digest digest.Digest
		Inputs []struct {
			Selector digest.Digest
			Content  bool
		}
		Op json.RawMessage
	}
	readGolden(t, "steps.json", &cases)
	for name, c := range cases {
		op := &pb.Op{}
		if err := protojson.Unmarshal(c.Op, op); err != nil {
			t.Fatal(err)
		}
		before := op.CloneVT()
		var s Step
		var err error
		ok := true
		switch k := op.Op.(type) {
		case *pb.Op_Exec:
			s, ok, err = Exec(k.Exec, op.Platform, len(op.Inputs))
		case *pb.Op_File:
			s, ok, err = File(k.File, len(op.Inputs))
		case *pb.Op_Merge:
			s, err = Merge(k.Merge, len(op.Inputs))
		case *pb.Op_Diff:
			s, err = Diff(k.Diff, len(op.Inputs))
		case *pb.Op_Passthrough:
			s, err = Passthrough(k.Passthrough, len(op.Inputs))
		}
		if err != nil || !ok {
			t.Errorf("%s: ok %t, error %v", name, ok, err)
			continue
		}
		if s.Digest != c.Digest {
			t.Errorf("%s: digest %s, BuildKit's is %s", name, s.Digest, c.Digest)
		}
		for i, in := range c.Inputs {
			if s.Inputs[i].Selector != in.Selector || (len(s.Inputs[i].Content) > 0) != in.Content {
				t.Errorf("%s: input %d is %+v, BuildKit's is %+v", name, i, s.Inputs[i], in)
			}
		}
		if !op.EqualVT(before) {
			t.Errorf("%s: the operation was changed", name)
		}
	}
}

func TestDevicesHaveNoName(t *testing.T) {
	_, ok, err := Exec(&pb.ExecOp{Meta: &pb.Meta{}, CdiDevices: []*pb.CDIDevice{{Name: "a.b/c"}}}, nil, 0)
	if ok || err != nil {
		t.Errorf("ok %t, error %v", ok, err)
	}
}

func TestNamesLookedUpInResultsHaveNoName(t *testing.T) {
	_, ok, err := File(&pb.FileOp{Actions: []*pb.FileAction{{Input: 0, SecondaryInput: -1, Output: 0, Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{
		Path: "/x", Owner: &pb.ChownOpt{User: &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: "u", Input: 3}}}},
	}}}}}, 1)
	if ok || err != nil {
		t.Errorf("ok %t, error %v", ok, err)
	}
}

func TestSumsAreThoseOfBuildKit(t *testing.T) {
	var cases map[string]struct {
		Path                  string
		Wildcard, FollowLinks bool
		Include, Exclude      []string
		Digest                digest.Digest
	}
	readGolden(t, "sums.json", &cases)
	for name, c := range cases {
		got, err := Tree{FS: golden}.part(context.Background(), Selector{c.Path, c.Wildcard, c.FollowLinks, c.Include, c.Exclude})
		if c.Digest == "" {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s, error %v; want that it does not exist", name, got, err)
			}
			continue
		}
		if err != nil || got != c.Digest {
			t.Errorf("%s: %s, error %v; BuildKit's is %s", name, got, err, c.Digest)
		}
	}
}

func TestSumOfNothing(t *testing.T) {
	ctx := context.Background()
	got, err := Sum(ctx, Tree{}, []Selector{{}})
	if want := digest.FromString(nothing.String()); err != nil || got != want {
		t.Errorf("%s, error %v; want %s", got, err, want)
	}
	if _, err := Sum(ctx, Tree{}, []Selector{{Path: "/x"}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a path of nothing: %v", err)
	}
}

// What a COPY can tell apart must have another sum: else a wrong answer would be found.
func TestSumsDiffer(t *testing.T) {
	seen := map[digest.Digest]string{}
	check := func(what string, m memory, s Selector) {
		t.Helper()
		got, err := Sum(context.Background(), Tree{FS: m}, []Selector{s})
		if err != nil {
			t.Fatal(what, err)
		}
		if other, ok := seen[got]; ok {
			t.Errorf("%s has the sum of %s", what, other)
		}
		seen[got] = what
	}
	for _, s := range []Selector{{Path: "/dir"}, {Path: "/dir", Exclude: []string{"sub"}}, {Path: "/di*", Wildcard: true}} {
		clear(seen)
		check("the tree", golden, s)
		for what, change := range map[string]func(memory){
			"content":      func(m memory) { m["dir/one.txt"].data = "One\n" },
			"mode":         func(m memory) { m["dir/one.txt"].Mode |= 0o111 },
			"setuid":       func(m memory) { m["dir/one.txt"].Mode |= uint32(fs.ModeSetuid) },
			"owner":        func(m memory) { m["dir/one.txt"].Uid = 7 },
			"group":        func(m memory) { m["dir/one.txt"].Gid = 7 },
			"attribute":    func(m memory) { m["dir/one.txt"].Xattrs = map[string][]byte{"user.note": []byte("other")} },
			"link":         func(m memory) { m["dir/link"].Linkname = "two.go" },
			"device":       func(m memory) { m["dir/dev"].Devminor = 4 },
			"directory":    func(m memory) { m["dir"].Mode ^= 0o7 },
			"another file": func(m memory) { m["dir/p"] = file("", 0o644, 0, 0) },
			"one less":     func(m memory) { delete(m, "dir/empty") },
			"renamed":      func(m memory) { m["dir/emptx"] = m["dir/empty"]; delete(m, "dir/empty") },
			"kind":         func(m memory) { m["dir/empty"] = node(fs.ModeDir|0o600, 0, 0) },
		} {
			m := memory{}
			for p, e := range golden {
				m[p] = &entry{e.Stat.CloneVT(), e.data}
			}
			change(m)
			check(what, m, s)
		}
	}
}

// A memory is a tree without links to follow: callers do.
type memory map[string]*entry

type entry struct {
	*fstypes.Stat
	data string
}

func node(mode fs.FileMode, uid, gid uint32) *entry {
	return &entry{Stat: &fstypes.Stat{Mode: uint32(mode), Uid: uid, Gid: gid}}
}

func file(data string, mode fs.FileMode, uid, gid uint32) *entry {
	e := node(mode, uid, gid)
	e.data = data
	return e
}

func link(to string) *entry {
	e := node(fs.ModeSymlink|0o777, 0, 0)
	e.Linkname = to
	return e
}

var golden = memory{
	"":                 node(fs.ModeDir|0o755, 0, 0),
	"dir":              node(fs.ModeDir|0o750, 1, 2),
	"dir/sub":          node(fs.ModeDir|fs.ModeSticky|0o777, 0, 0),
	"dir-x":            node(fs.ModeDir|0o755, 0, 0),
	"dir-x/z.go":       file("zz", 0o644, 0, 0),
	"dir/one.txt":      {&fstypes.Stat{Mode: 0o644, Xattrs: map[string][]byte{"user.note": []byte("hello"), "security.selinux": []byte("x")}}, "one\n"},
	"dir/two.go":       file("two\n", fs.ModeSetuid|0o755, 5, 6),
	"dir/empty":        file("", 0o600, 0, 0),
	"dir/sub/three.go": file("three\n", 0o640, 0, 0),
	"dir/sub/four.txt": file("four\n", 0o640, 0, 0),
	"dir/link":         link("one.txt"),
	"dir/dangling":     link("/nowhere"),
	"to-dir":           link("dir/sub"),
	"abs":              link("/dir"),
	"file-link":        link("abs/two.go"),
	"top.go":           file("top\n", 0o644, 0, 0),
	"dir/fifo":         node(fs.ModeNamedPipe|0o644, 0, 0),
	"dir/dev":          {&fstypes.Stat{Mode: uint32(fs.ModeDevice | fs.ModeCharDevice | 0o600)}, ""},
}

func (m memory) Lstat(p string) (*fstypes.Stat, error) {
	e, ok := m[p]
	if !ok {
		return nil, &fs.PathError{Op: "lstat", Path: p, Err: fs.ErrNotExist}
	}
	st := e.Stat.CloneVT()
	st.Size = int64(len(e.data))
	return st, nil
}

func (m memory) ReadDir(p string) ([]string, error) {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if k != "" && strings.TrimPrefix(path.Dir("/"+k), "/") == p {
			out = append(out, path.Base(k))
		}
	}
	slices.Sort(out)
	return out, nil
}

func (m memory) Open(p string) (io.ReadCloser, error) {
	e, ok := m[p]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader([]byte(e.data))), nil
}
