package worker_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/worker"
	"github.com/moby/buildkit/solver/pb"
)

// fileOp makes an op of actions; each is put on input, reads from, and is output.
func fileOp(inputs []*pb.Input, actions ...*pb.FileAction) *pb.Op {
	return &pb.Op{Inputs: inputs, Op: &pb.Op_File{File: &pb.FileOp{Actions: actions}}}
}

func mkfile(in, out int64, path, data string, owner *pb.ChownOpt) *pb.FileAction {
	return &pb.FileAction{Input: in, SecondaryInput: -1, Output: out, Action: &pb.FileAction_Mkfile{
		Mkfile: &pb.FileActionMkFile{Path: path, Data: []byte(data), Mode: 0o644, Timestamp: -1, Owner: owner},
	}}
}

func copyFrom(in, from, out int64, src, dest string) *pb.FileAction {
	return &pb.FileAction{Input: in, SecondaryInput: from, Output: out, Action: &pb.FileAction_Copy{
		Copy: &pb.FileActionCopy{Src: src, Dest: dest, Mode: -1, Timestamp: -1},
	}}
}

func named(user string, in int64) *pb.ChownOpt {
	return &pb.ChownOpt{User: &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: user, Input: in}}}}
}

const passwd = "root:x:0:0::/:\napp:x:1000:1001::/:\n"

func TestFileActions(t *testing.T) {
	for name, tt := range map[string]struct {
		op     *pb.Op
		want   [][]string // files of each output
		layers int        // made by all of it
	}{
		"several actions make one layer": {
			fileOp(nil, mkfile(-1, -1, "/a", "1", nil), mkfile(0, -1, "/b", "2", nil), mkfile(1, 0, "/c", "3", nil)),
			[][]string{{"a=1", "b=2", "c=3"}}, 1,
		},
		"an intermediate result used twice": {
			fileOp(nil, mkfile(-1, -1, "/a", "1", nil), mkfile(0, 0, "/b", "2", nil), mkfile(0, 1, "/c", "3", nil)),
			[][]string{{"a=1", "b=2"}, {"a=1", "c=3"}}, 3,
		},
		"an intermediate result read and gone on with": {
			fileOp(nil, mkfile(-1, -1, "/a", "1", nil), copyFrom(0, 0, 0, "/a", "/b")),
			[][]string{{"a=1", "b=1"}}, 2,
		},
		"an intermediate result read before it changes": {
			fileOp(nil, mkfile(-1, -1, "/a", "1", nil), copyFrom(-1, 0, 0, "/a", "/b"), mkfile(0, 1, "/a", "2", nil)),
			[][]string{{"b=1"}, {"a=2"}}, 3,
		},
		"an output gone on with": {
			fileOp(nil, mkfile(-1, 1, "/a", "1", nil), mkfile(0, 0, "/b", "2", nil)),
			[][]string{{"a=1", "b=2"}, {"a=1"}}, 2,
		},
		"a result nobody wants": {
			fileOp(nil, mkfile(-1, -1, "/x", "", nil), mkfile(-1, 0, "/a", "1", nil)),
			[][]string{{"a=1"}}, 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for i, want := range tt.want {
				_, got := w.finish(w.try(wire(t, int64(i), tt.op), request{}))
				only(t, got, want...)
			}
			if n := w.layers(); n != tt.layers {
				t.Errorf("%d layers, want %d", n, tt.layers)
			}
		})
	}
}

// A name may be looked up in what an earlier action made, even if the action goes on with
// it and nobody else reads it.
func TestOwnerOfIntermediateResult(t *testing.T) {
	mkdir := &pb.FileAction{Input: -1, SecondaryInput: -1, Output: -1, Action: &pb.FileAction_Mkdir{
		Mkdir: &pb.FileActionMkDir{Path: "/etc", Mode: 0o755, Timestamp: -1},
	}}
	for name, op := range map[string]*pb.Op{
		"of what it goes on with": fileOp(nil, mkdir, mkfile(0, -1, "/etc/passwd", passwd, nil), mkfile(1, 0, "/a", "1", named("app", 1))),
		"of something before":     fileOp(nil, mkdir, mkfile(0, -1, "/etc/passwd", passwd, nil), mkfile(1, -1, "/b", "", nil), mkfile(2, 0, "/a", "1", named("app", 1))),
		"of an output":            fileOp(nil, mkdir, mkfile(0, 1, "/etc/passwd", passwd, nil), mkfile(1, 0, "/a", "1", named("app", 1))),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			res, err := w.try(wire(t, 0, op), request{})
			must(t, err)
			defer res.ref.Release()
			tree, err := w.worker.Files(t.Context(), access(), res.ref)
			must(t, err)
			if st, err := tree.Lstat("a"); err != nil || st.Uid != 1000 || st.Gid != 1001 {
				t.Errorf("got %v, %v", st, err)
			}
		})
	}
}

// A file op that fails half-way leaves nothing, whatever it had made by then.
func TestFailedActionLeavesNothing(t *testing.T) {
	for name, op := range map[string]*pb.Op{
		"in a draft":          fileOp(nil, mkfile(-1, -1, "/a", "1", nil), mkfile(0, 0, "/no/such/dir", "", nil)),
		"after an output":     fileOp(nil, mkfile(-1, 1, "/a", "1", nil), mkfile(0, -1, "/b", "", nil), mkfile(1, 0, "/no/such/dir", "", nil)),
		"owner is not there":  fileOp(nil, mkfile(-1, -1, "/a", "1", nil), mkfile(0, 0, "/b", "", named("nobody", 0))),
		"nothing to look in":  fileOp(nil, mkfile(-1, 0, "/a", "1", named("app", -1))),
		"copy of what is not": fileOp(nil, mkfile(-1, -1, "/a", "1", nil), copyFrom(0, 0, 0, "/x", "/y")),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if _, err := w.try(wire(t, 0, op), request{}); err == nil {
				t.Error("should fail")
			}
			w.clean()
		})
	}
}

func TestMissingSource(t *testing.T) {
	copyTo := func(src llb.Output, path, dest string) llb.Output {
		return llb.File(files("/base", ""), []llb.FileAction{llb.Copy{From: src, Src: path, Dest: dest, Mode: llb.KeepMode, AllowWildcard: strings.Contains(path, "*")}}, llb.Meta{})
	}
	stage := llb.File(files("/main.go", "", "/Makefile", ""), []llb.FileAction{
		llb.Mkdir{Path: "/src/cmd", Parents: true, Mode: 0o755}, llb.Mkfile{Path: "/src/cmd/tool.go", Mode: 0o644},
	}, llb.Meta{})
	local := llb.Local("context", llb.LocalOptions{ExcludePatterns: []string{"secret", "*.log", "!keep.log"}}, llb.Meta{})

	for name, tt := range map[string]struct {
		src        llb.Output
		path, dest string
		want       string
	}{
		"one letter":         {stage, "/man.go", "/", `"/man.go": not found (did you mean "/main.go"?)`},
		"case":               {stage, "/makefile", "/", `"/makefile": not found (did you mean "/Makefile"?)`},
		"in a directory":     {stage, "/src/cmd/tol.go", "/", `"/src/cmd/tol.go": not found (did you mean "/src/cmd/tool.go"?)`},
		"nothing is near":    {stage, "/elephant", "/", `"/elephant": not found`},
		"no such directory":  {stage, "/x/y/z", "/", `"/x/y/z": not found`},
		"below a file":       {stage, "/main.go/x", "/", `"/main.go/x": not found`},
		"scratch":            {files("/a", ""), "/elephant", "/", `"/elephant": not found`},
		"ignored":            {local, "/secret", "/", `"/secret": not found (it is excluded from the context by the pattern "secret" of the .dockerignore file)`},
		"ignored below":      {local, "/secret/key", "/", `"/secret/key": not found (it is excluded from the context by the pattern "secret" of the .dockerignore file)`},
		"not ignored":        {local, "/keep.log", "/", `"/keep.log": not found`},
		"near, in a context": {local, "/app/mian.c", "/", `"/app/mian.c": not found (did you mean "/app/main.c"?)`},
		"elsewhere":          {local, "/main.c", "/", `"/main.c": not found (did you mean "/app/main.c"?)`},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.join("k", directory(t, "context", map[string]string{"app/main.c": "", "secret/key": "", "x.log": "", "readme": ""}))
			err := w.fails(copyTo(tt.src, tt.path, tt.dest), request{client: client{sessions: []string{s.ID()}}})
			if err.Error() != tt.want {
				t.Errorf("got %v\nwant %s", err, tt.want)
			}
			var missing *worker.MissingError
			if !errors.As(err, &missing) || !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the error is not of its kind")
			}
		})
	}
}

// What is missing at the destination is not blamed on the source.
func TestMissingDestination(t *testing.T) {
	w := newWorld(t)
	o := llb.File(files("/base", ""), []llb.FileAction{llb.Copy{From: files("/f", ""), Src: "/f", Dest: "/no/dir", Mode: llb.KeepMode}}, llb.Meta{})
	if err := w.fails(o, request{}); err.Error() != `"/no": not found` {
		t.Errorf("got %v", err)
	}
	// A pattern that the source lacks is.
	o = llb.File(files("/base", ""), []llb.FileAction{llb.Copy{From: files("/f", ""), Src: "/x*", Dest: "/", Mode: llb.KeepMode, AllowWildcard: true}}, llb.Meta{})
	if err := w.fails(o, request{}); !strings.Contains(err.Error(), "x*") {
		t.Errorf("got %v", err)
	}
}

func TestMergeAndDiff(t *testing.T) {
	w := newWorld(t)
	base := files("/a", "1", "/b", "1")
	upper := llb.File(base, []llb.FileAction{llb.Mkfile{Path: "/b", Mode: 0o644, Data: []byte("2")}, llb.Mkfile{Path: "/c", Mode: 0o644, Data: []byte("2")}, llb.Rm{Path: "/a"}}, llb.Meta{})
	other := files("/a", "3", "/d", "3")

	_, got := w.build(llb.Merge([]llb.Output{base, other}, llb.Meta{}))
	only(t, got, "a=3", "b=1", "d=3")
	_, got = w.build(llb.Merge([]llb.Output{other, base, llb.Output{}}, llb.Meta{}))
	only(t, got, "a=1", "b=1", "d=3")
	before := w.layers()
	diff := llb.Diff(base, upper, llb.Meta{})
	_, got = w.build(llb.Merge([]llb.Output{other, diff}, llb.Meta{}))
	only(t, got, "b=2", "c=2", "d=3") // a is removed
	_, got = w.build(llb.Diff(base, base, llb.Meta{}))
	only(t, got)
	_, got = w.build(llb.Diff(llb.Output{}, upper, llb.Meta{}))
	only(t, got, "b=2", "c=2")
	if n := w.layers() - before; n != 1 {
		t.Errorf("merges and diffs made %d layers besides the one of the upper input", n-1)
	}
	// A diff of what is not on top of the other.
	_, got = w.build(llb.Diff(other, upper, llb.Meta{}))
	only(t, got, "b=2", "c=2")

	// Directories of a client have no layers of their own.
	s := w.join("k", directory(t, "dir", map[string]string{"x/y": "4"}))
	local := llb.Local("dir", llb.LocalOptions{}, llb.Meta{})
	_, got = w.finish(w.try(w.marshal(llb.Merge([]llb.Output{base, local}, llb.Meta{})), request{client: client{sessions: []string{s.ID()}}}))
	only(t, got, "a=1", "b=1", "x=dir", "x/y=4")
	_, got = w.finish(w.try(w.marshal(llb.Diff(base, local, llb.Meta{})), request{client: client{sessions: []string{s.ID()}}}))
	only(t, got, "x=dir", "x/y=4")
}

// A merge that lists scratch, or one input twice, as clients of the wire form may.
func TestMergeOfOneInputTwice(t *testing.T) {
	w := newWorld(t)
	src := fileOp(nil, mkfile(-1, 0, "/a", "1", nil))
	merge := &pb.Op{Inputs: []*pb.Input{input(t, src, 0)}, Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 0}, {Input: 0}}}}}
	_, got := w.finish(w.try(wire(t, 0, src, merge), request{}))
	only(t, got, "a=1")
	nothing := &pb.Op{Inputs: []*pb.Input{input(t, src, 0)}, Op: &pb.Op_Diff{Diff: &pb.DiffOp{Lower: &pb.LowerDiffInput{Input: 0}, Upper: &pb.UpperDiffInput{Input: -1}}}}
	_, got = w.finish(w.try(wire(t, 0, src, nothing), request{}))
	only(t, got)
}
