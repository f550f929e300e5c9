package llb_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/llb"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
)

// wire makes a definition of ops as they are; the last op given is the last one.
func wire(t testing.TB, ops ...*pb.Op) *pb.Definition {
	t.Helper()
	def := &pb.Definition{}
	for _, op := range ops {
		dt, err := proto.Marshal(op)
		if err != nil {
			t.Fatal(err)
		}
		def.Def = append(def.Def, dt)
	}
	return def
}

// over ends a graph of one op, after sources that it may read.
func over(t testing.TB, op *pb.Op) *pb.Definition {
	t.Helper()
	src := source("docker-image://a")
	return wire(t, src, op, end(t, op))
}

func source(id string) *pb.Op {
	return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id}}}
}

func input(t testing.TB, op *pb.Op, index int64) *pb.Input {
	t.Helper()
	dt, err := proto.Marshal(op)
	if err != nil {
		t.Fatal(err)
	}
	return &pb.Input{Digest: string(digest.FromBytes(dt)), Index: index}
}

func end(t testing.TB, op *pb.Op) *pb.Op { return &pb.Op{Inputs: []*pb.Input{input(t, op, 0)}} }

func exec(change func(*pb.ExecOp)) *pb.Op {
	op := &pb.ExecOp{
		Meta:   &pb.Meta{Args: []string{"true"}, Cwd: "/"},
		Mounts: []*pb.Mount{{Input: -1, Dest: "/"}},
	}
	change(op)
	return &pb.Op{Op: &pb.Op_Exec{Exec: op}}
}

func file(actions ...*pb.FileAction) *pb.Op {
	return &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: actions}}}
}

func mkdir(input, output int64) *pb.FileAction {
	return &pb.FileAction{Input: input, SecondaryInput: -1, Output: output, Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/a"}}}
}

func TestLoadRefuses(t *testing.T) {
	src := source("docker-image://a")
	named := wire(t, &pb.Op{}, end(t, &pb.Op{}))
	named.Metadata = map[string]*pb.OpMetadata{
		string(digest.FromBytes(named.Def[0])): {Description: map[string]string{"llb.customname": "[1/2] RUN x"}},
	}
	caps := wire(t, src, end(t, src))
	caps.Metadata = map[string]*pb.OpMetadata{string(digest.FromBytes(caps.Def[0])): {Caps: map[string]bool{"tea.making": true}}}
	located := wire(t, src, end(t, src))
	located.Source = &pb.Source{Locations: map[string]*pb.Locations{
		string(digest.FromBytes(located.Def[0])): {Locations: []*pb.Location{{SourceIndex: 1}}},
	}, Infos: []*pb.SourceInfo{{}}}
	chain := []*pb.Op{src}
	for range 5 {
		prev := chain[len(chain)-1]
		op := file(mkdir(0, 0))
		op.Inputs = []*pb.Input{input(t, prev, 0)}
		chain = append(chain, op)
	}
	chain = append(chain, end(t, chain[len(chain)-1]))

	for name, tt := range map[string]struct {
		def  *pb.Definition
		lim  llb.Limits
		want string
	}{
		"no kind":               {over(t, &pb.Op{Platform: &pb.Platform{OS: "x"}}), llb.Limits{}, "does not know this kind of operation"},
		"no kind, named":        {named, llb.Limits{}, `"[1/2] RUN x": this builder does not know`},
		"garbage":               {&pb.Definition{Def: [][]byte{{0xff}, {}}}, llb.Limits{}, "operation 0 of the build graph is not readable"},
		"nil bytes":             {&pb.Definition{Def: [][]byte{nil}}, llb.Limits{}, "does not end in a result"},
		"no end":                {wire(t, src), llb.Limits{}, "does not end in a result"},
		"end without op":        {wire(t, end(t, src)), llb.Limits{}, "which it lacks"},
		"end with bad output":   {wire(t, src, &pb.Op{Inputs: []*pb.Input{input(t, src, 1)}}), llb.Limits{}, "output 1 of operation sha256:"},
		"negative output":       {wire(t, src, &pb.Op{Inputs: []*pb.Input{input(t, src, -1)}}), llb.Limits{}, "output -1"},
		"missing input":         {over(t, &pb.Op{Inputs: []*pb.Input{{Digest: "sha256:12"}}, Op: src.Op}), llb.Limits{}, `reads operation "sha256:12", which`},
		"empty input":           {over(t, &pb.Op{Inputs: []*pb.Input{{}}, Op: src.Op}), llb.Limits{}, `reads operation "", which`},
		"source with inputs":    {over(t, &pb.Op{Inputs: []*pb.Input{input(t, src, 0)}, Op: src.Op}), llb.Limits{}, "a source cannot have inputs"},
		"source without id":     {over(t, source("")), llb.Limits{}, "needs an identifier"},
		"empty exec":            {over(t, &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{}}}), llb.Limits{}, "needs arguments"},
		"exec without root":     {over(t, exec(func(e *pb.ExecOp) { e.Mounts = nil })), llb.Limits{}, "no mount is at /"},
		"exec network":          {over(t, exec(func(e *pb.ExecOp) { e.Network = 9 })), llb.Limits{}, "network mode 9"},
		"exec security":         {over(t, exec(func(e *pb.ExecOp) { e.Security = 9 })), llb.Limits{}, "security mode 9"},
		"exec mount input":      {over(t, exec(func(e *pb.ExecOp) { e.Mounts[0].Input = 0 })), llb.Limits{}, "the mount at / is of input 0 of 0"},
		"exec mount type":       {over(t, exec(func(e *pb.ExecOp) { e.Mounts[0].MountType = 77 })), llb.Limits{}, "type 77"},
		"exec mount no dest":    {over(t, exec(func(e *pb.ExecOp) { e.Mounts[0].Dest = "" })), llb.Limits{}, "needs a destination"},
		"exec cache no options": {over(t, exec(func(e *pb.ExecOp) { e.Mounts = append(e.Mounts, &pb.Mount{Dest: "/c", Input: -1, MountType: 3}) })), llb.Limits{}, "the cache mount at /c has no options"},
		"exec output twice":     {over(t, exec(func(e *pb.ExecOp) { e.Mounts = append(e.Mounts, &pb.Mount{Dest: "/c", Input: -1}) })), llb.Limits{}, "the mount at /c cannot be output 0"},
		"exec output gap":       {over(t, exec(func(e *pb.ExecOp) { e.Mounts = append(e.Mounts, &pb.Mount{Dest: "/c", Input: -1, Output: 2}) })), llb.Limits{}, "cannot be output 2"},
		"exec zero byte":        {over(t, exec(func(e *pb.ExecOp) { e.Meta.Env = []string{"a\x00"} })), llb.Limits{}, "zero bytes"},
		"exec long path":        {over(t, exec(func(e *pb.ExecOp) { e.Mounts[0].Selector = strings.Repeat("a", 5000) })), llb.Limits{}, "longer than 4096"},
		"file without actions":  {over(t, file()), llb.Limits{}, "needs actions"},
		"file empty action":     {over(t, file(&pb.FileAction{})), llb.Limits{}, "file action 0 reads input 0"},
		"file unknown action":   {over(t, file(&pb.FileAction{Input: -1, SecondaryInput: -1})), llb.Limits{}, "this kind of file action"},
		"file reads itself":     {over(t, file(mkdir(0, 0))), llb.Limits{}, "file action 0 reads input 0, but only 0"},
		"file no output":        {over(t, file(mkdir(-1, -1))), llb.Limits{}, "needs an output"},
		"file output gap":       {over(t, file(mkdir(-1, 1), mkdir(0, -1))), llb.Limits{}, "none is number 0"},
		"merge of nothing":      {over(t, &pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{}}}), llb.Limits{}, "a merge needs inputs"},
		"merge out of range":    {over(t, &pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 3}}}}}), llb.Limits{}, "a merge of input 3 of 0"},
		"empty diff":            {over(t, &pb.Op{Op: &pb.Op_Diff{Diff: &pb.DiffOp{}}}), llb.Limits{}, "a diff needs"},
		"build out of range":    {over(t, &pb.Op{Op: &pb.Op_Build{Build: &pb.BuildOp{Builder: 2}}}), llb.Limits{}, "by input 2 of 0"},
		"unknown capability":    {caps, llb.Limits{}, `needs the capability "tea.making"`},
		"unknown source file":   {located, llb.Limits{}, "a source file that the build graph lacks"},
		"too many":              {wire(t, chain...), llb.Limits{Ops: 5}, "6 operations, more than the 5"},
		"too big":               {wire(t, chain...), llb.Limits{Bytes: 50}, "more than the 50"},
		"too deep":              {wire(t, chain...), llb.Limits{Depth: 5}, "more than the 5 operations"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := llb.Load(tt.def, tt.lim)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := llb.Load(wire(t, chain...), llb.Limits{Ops: 6, Depth: 6}); err != nil {
		t.Errorf("at the limits: %v", err)
	}
}

func TestLoadOfNothingIsScratch(t *testing.T) {
	for _, def := range []*pb.Definition{nil, {}, {Metadata: map[string]*pb.OpMetadata{"": nil}}} {
		g, err := llb.Load(def, llb.Limits{})
		if err != nil || g.Root.Vertex != nil || len(g.Vertices) != 0 || !g.Output().IsScratch() {
			t.Errorf("%v: got %+v, %v", def, g, err)
		}
	}
	def, err := llb.Marshal(t.Context(), llb.Output{}, amd)
	if err != nil || len(def.Def) != 0 {
		t.Errorf("got %v, %v", def, err)
	}
}

// diamonds stacks n diamonds: 2^n paths through 3n vertices.
func diamonds(n int) llb.Output {
	out := llb.Image("base", llb.ImageOptions{}, llb.Meta{})
	for i := range n {
		side := func(name string) llb.Output {
			return llb.File(out, []llb.FileAction{llb.Mkdir{Path: fmt.Sprintf("/%s%d", name, i), Mode: 0o755}}, llb.Meta{})
		}
		out = llb.Merge([]llb.Output{side("a"), side("b")}, llb.Meta{Name: fmt.Sprint("level ", i)})
	}
	return out
}

func TestDiamondsCollapse(t *testing.T) {
	def, err := llb.Marshal(t.Context(), diamonds(40), amd)
	if err != nil {
		t.Fatal(err)
	}
	g, err := llb.Load(def, llb.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Vertices) != 121 {
		t.Errorf("got %d vertices, want 121", len(g.Vertices))
	}
	seen := map[*llb.Vertex]bool{}
	for _, v := range g.Vertices {
		for _, in := range v.Inputs {
			if !seen[in.Vertex] {
				t.Fatalf("%s comes before its input", v.Digest)
			}
		}
		seen[v] = true
	}
	if g.Root.Vertex != g.Vertices[120] || g.Root.Vertex.Meta.Description["llb.customname"] != "level 39" {
		t.Errorf("the root is %+v", g.Root)
	}
}

func TestEqualOpsAreOneVertex(t *testing.T) {
	f := &pb.SourceInfo{Filename: "Dockerfile", Data: []byte("FROM a")}
	same := &pb.SourceInfo{Filename: "Dockerfile", Data: []byte("FROM a")}
	at := func(f *pb.SourceInfo, line int32) []*llb.SourceLocation {
		return []*llb.SourceLocation{{File: f, Ranges: []*pb.Range{{Start: &pb.Position{Line: line}}}}}
	}
	a := llb.Image("a", llb.ImageOptions{}, llb.Meta{Name: "one", Locations: at(f, 1)})
	b := llb.Image("a", llb.ImageOptions{}, llb.Meta{IgnoreCache: true, Locations: at(same, 2)})
	out := llb.File(a, []llb.FileAction{llb.Copy{From: b, Src: "/", Dest: "/b", Mode: llb.KeepMode}}, llb.Meta{})
	def, err := llb.Marshal(t.Context(), out, amd)
	if err != nil {
		t.Fatal(err)
	}
	// Unneeded and repeated operations do not disturb.
	extra, err := proto.Marshal(source("docker-image://unused"))
	if err != nil {
		t.Fatal(err)
	}
	def.Def = append([][]byte{extra, def.Def[1], def.Def[0]}, def.Def...)
	g, err := llb.Load(def, llb.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if len(g.Vertices) != 2 || len(g.Root.Vertex.Inputs) != 1 || len(g.Sources) != 1 {
		t.Fatalf("got %d vertices, %d inputs, %d sources", len(g.Vertices), len(g.Root.Vertex.Inputs), len(g.Sources))
	}
	img := g.Vertices[0]
	if !img.Meta.IgnoreCache || img.Meta.Description["llb.customname"] != "one" || len(img.Locations) != 2 {
		t.Errorf("got %+v at %v", img.Meta, img.Locations)
	}
}

func TestForeignDefinitionsKeepWhatTheySay(t *testing.T) {
	f := &pb.SourceInfo{Filename: "other", Data: []byte("x")}
	inner := llb.Image("a", llb.ImageOptions{Platform: &arm}, llb.Meta{Name: "inner", Locations: []*llb.SourceLocation{{File: f}}})
	def, err := llb.Marshal(t.Context(), inner, amd)
	if err != nil {
		t.Fatal(err)
	}
	in, err := llb.FromDefinition(def, llb.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	out := llb.Exec(llb.ExecOptions{Root: in, Args: []string{"x"}, Cwd: "/"}, llb.Meta{Name: "outer"}).Root()
	def, err = llb.Marshal(t.Context(), out, amd)
	if err != nil {
		t.Fatal(err)
	}
	g, err := llb.Load(def, llb.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	v := g.Vertices[0]
	if v.Meta.Description["llb.customname"] != "inner" || len(v.Locations) != 1 || g.Sources[v.Locations[0].SourceIndex].Filename != "other" {
		t.Errorf("got %+v at %v", v.Meta, v.Locations)
	}
	if got := g.Root.Vertex.Op.Platform.Architecture; got != "arm64" {
		t.Errorf("what is built on an arm64 image runs on %s", got)
	}
}

func TestMarshalReportsMistakes(t *testing.T) {
	for name, tt := range map[string]struct {
		out  llb.Output
		want string
	}{
		"image":    {llb.Image("A B", llb.ImageOptions{}, llb.Meta{}), `image "A B"`},
		"git":      {llb.Git("ftp://a/b", llb.GitOptions{}, llb.Meta{}), "not a protocol of git"},
		"no args":  {llb.Exec(llb.ExecOptions{Cwd: "/"}, llb.Meta{}).Root(), "needs arguments"},
		"no cwd":   {llb.Exec(llb.ExecOptions{Args: []string{"a"}}, llb.Meta{}).Root(), "working directory"},
		"file":     {llb.File(llb.Output{}, nil, llb.Meta{}), "needs actions"},
		"nil file": {llb.File(llb.Output{}, []llb.FileAction{nil}, llb.Meta{}), "empty action"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := llb.Marshal(t.Context(), tt.out, amd)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestPrint(t *testing.T) {
	img := llb.Image("alpine", llb.ImageOptions{}, llb.Meta{Name: "FROM alpine"})
	src := llb.Local("context", llb.LocalOptions{SessionID: "s"}, llb.Meta{})
	ex := llb.Exec(llb.ExecOptions{
		Root: img, Args: []string{"sh", "-c", "make all"}, Cwd: "/w",
		Mounts: []llb.Mount{{Target: "/src", Source: src, Readonly: true}, {Target: "/o"}},
	}, llb.Meta{})
	o, _ := ex.Mount("/o")
	out := llb.File(ex.Root(), []llb.FileAction{
		llb.Mkdir{Path: "/x", Mode: 0o755},
		llb.Copy{From: o, Src: "/a", Dest: "/x/", Mode: llb.KeepMode, Owner: llb.ParseOwner("bob:5"), AllowWildcard: true},
	}, llb.Meta{})
	def, err := llb.Marshal(t.Context(), out, amd)
	if err != nil {
		t.Fatal(err)
	}
	g, err := llb.Load(def, llb.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := llb.Print(&b, g); err != nil {
		t.Fatal(err)
	}
	want := `%1 = source platform=linux/amd64
  # FROM alpine
  docker-image://docker.io/library/alpine:latest
%2 = source
  local://context
  local.session = "s"
%3 = exec platform=linux/amd64
  run sh -c "make all"
  cwd /w
  mount / bind %1 output=0
  mount /o bind scratch output=1
  mount /src bind %2 readonly
%4 = file
  0: mkdir /x mode=0755 on %3
  1: copy %3.1 /a to /x/ wildcard user=bob group=5 on ^0 output=0
result %4
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Error(diff)
	}
	b.Reset()
	if err := llb.Dot(&b, g); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "n3 -> n4") || !strings.Contains(b.String(), `[label="FROM alpine"]`) {
		t.Error(b.String())
	}
	b.Reset()
	if err := llb.JSON(&b, g); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(b.String(), "\n"); lines != 5 {
		t.Errorf("%d lines of JSON, want 5", lines)
	}
}

func FuzzLoad(f *testing.F) {
	for _, out := range []llb.Output{diamonds(3), {}, llb.Exec(llb.ExecOptions{Args: []string{"a"}, Cwd: "/", Mounts: []llb.Mount{{Target: "/c", CacheID: "c"}, {Target: "/t", Tmpfs: true}}, Secrets: []llb.Secret{{ID: "s", Target: "/s", Env: "S"}}, SSH: []llb.SSH{{ID: "d"}}}, llb.Meta{}).Root()} {
		def, err := llb.Marshal(f.Context(), out, amd)
		if err != nil {
			f.Fatal(err)
		}
		dt, err := proto.Marshal(def)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(dt)
	}
	f.Fuzz(func(t *testing.T, dt []byte) {
		def := &pb.Definition{}
		if proto.Unmarshal(dt, def) != nil {
			return
		}
		relink(def)
		g, err := llb.Load(def, llb.Limits{})
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := llb.Print(&b, g); err != nil {
			t.Error(err)
		}
		if err := llb.Dot(&b, g); err != nil {
			t.Error(err)
		}
		if _, err := llb.Marshal(t.Context(), g.Output(), amd); err != nil {
			t.Error(err)
		}
		// With other sources it is as good as before.
		other := map[digest.Digest]*pb.SourceOp{}
		for _, v := range g.SourceOps() {
			other[v.Digest] = &pb.SourceOp{Identifier: "docker-image://other"}
		}
		changed, err := g.Replace(other)
		if err != nil {
			t.Fatal(err)
		}
		h, err := llb.Load(changed, llb.Limits{})
		if err != nil || len(h.Vertices) > len(g.Vertices) {
			t.Fatal(err)
		}
	})
}

// relink has each op read ops that exist, so that fuzzing gets past the digests.
func relink(def *pb.Definition) {
	var digests []string
	for i, dt := range def.Def {
		op := &pb.Op{}
		if proto.Unmarshal(dt, op) != nil {
			continue
		}
		for j, in := range op.Inputs {
			if len(digests) > 0 {
				in.Digest = digests[(i+j)%len(digests)]
			}
		}
		if out, err := proto.Marshal(op); err == nil {
			def.Def[i] = out
		}
		digests = append(digests, string(digest.FromBytes(def.Def[i])))
	}
}

func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		out := llb.Image("base", llb.ImageOptions{}, llb.Meta{})
		for i := range n {
			out = llb.File(out, []llb.FileAction{llb.Mkdir{Path: fmt.Sprint("/", i), Mode: 0o755}}, llb.Meta{Name: fmt.Sprint("step ", i)})
		}
		def, err := llb.Marshal(b.Context(), out, amd)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint("load-", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := llb.Load(def, llb.Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprint("marshal-", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := llb.Marshal(b.Context(), out, amd); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
