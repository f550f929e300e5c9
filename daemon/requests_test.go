package daemon

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/dbuild/dbuild/llb"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// wire makes a definition of ops as they are, which leads to an output of the last.
func wire(t testing.TB, output int64, ops ...*pb.Op) *pb.Definition {
	t.Helper()
	def := &pb.Definition{}
	var last digest.Digest
	for _, op := range ops {
		dt, err := proto.Marshal(op)
		must(t, err)
		last = digest.FromBytes(dt)
		def.Def = append(def.Def, dt)
	}
	dt, err := proto.Marshal(&pb.Op{Inputs: []*pb.Input{{Digest: string(last), Index: output}}})
	must(t, err)
	def.Def = append(def.Def, dt)
	return def
}

func source(id string, attrs ...string) *pb.Op {
	src := &pb.SourceOp{Identifier: id, Attrs: map[string]string{}}
	for i := 0; i < len(attrs); i += 2 {
		src.Attrs[attrs[i]] = attrs[i+1]
	}
	return &pb.Op{Op: &pb.Op_Source{Source: src}}
}

func exec(mounts ...*pb.Mount) *pb.Op {
	return &pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{Args: []string{"/bin/true"}, Cwd: "/"}, Mounts: mounts}}}
}

func root() *pb.Mount { return &pb.Mount{Input: -1, Dest: "/", Output: 0} }

func action(in, second, out int64, a *pb.FileAction) *pb.FileAction {
	a.Input, a.SecondaryInput, a.Output = in, second, out
	return a
}

func file(actions ...*pb.FileAction) *pb.Op {
	return &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: actions}}}
}

func mkfile(path string) *pb.FileAction {
	return &pb.FileAction{Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: path, Timestamp: -1}}}
}

// diamonds is 2^n paths that all begin with first.
func diamonds(t testing.TB, n int, first llb.Output) *pb.Definition {
	out := first
	for i := range n {
		side := func(name string) llb.Output {
			return llb.File(out, []llb.FileAction{llb.Mkdir{Path: fmt.Sprintf("/%s%d", name, i)}}, llb.Meta{})
		}
		out = llb.Merge([]llb.Output{side("a"), side("b")}, llb.Meta{})
	}
	return marshal(t, out)
}

// chain is n actions one after the other, each an op of its own.
func chain(t testing.TB, n int, first llb.Output) *pb.Definition {
	out := first
	for range n {
		out = llb.File(out, []llb.FileAction{llb.Mkdir{Path: "/a"}}, llb.Meta{})
	}
	return marshal(t, out)
}

// badRequests are requests that must be refused, by what is wrong with them.
func badRequests(t testing.TB) map[string]*controlapi.SolveRequest {
	t.Helper()
	type req = controlapi.SolveRequest
	ok := marshal(t, tiny("fine"))
	nowhere := llb.Source("nowhere://x", nil, nil, llb.Meta{})
	def := func(d *pb.Definition) *req { return &req{Definition: d} }
	ops := func(o ...*pb.Op) *req { return def(wire(t, 0, o...)) }
	meta := func(change func(*pb.Definition, string)) *req {
		d := proto.Clone(ok).(*pb.Definition)
		change(d, string(digest.FromBytes(d.Def[0])))
		return def(d)
	}
	caches := func(kinds ...string) *controlapi.SolveRequest {
		r := &controlapi.SolveRequest{Definition: ok, Cache: &controlapi.CacheOptions{}}
		for _, k := range kinds {
			r.Cache.Exports = append(r.Cache.Exports, &controlapi.CacheOptionsEntry{Type: k})
		}
		return r
	}
	exports := func(kind string, attrs ...string) *req {
		e := &controlapi.Exporter{Type: kind, Attrs: map[string]string{}}
		for i := 0; i < len(attrs); i += 2 {
			e.Attrs[attrs[i]] = attrs[i+1]
		}
		return &req{Definition: ok, Exporters: []*controlapi.Exporter{e}}
	}
	front := func(name string, attrs ...string) *req {
		r := &req{Frontend: name, FrontendAttrs: map[string]string{}}
		for i := 0; i < len(attrs); i += 2 {
			r.FrontendAttrs[attrs[i]] = attrs[i+1]
		}
		return r
	}
	cyclic := source("local://x")
	cyclic.Inputs = []*pb.Input{{Digest: string(digest.FromString("x"))}}

	return map[string]*req{
		"nil op":                        def(&pb.Definition{Def: [][]byte{nil}}),
		"nil ops":                       def(&pb.Definition{Def: [][]byte{nil, nil, nil}}),
		"garbage":                       def(&pb.Definition{Def: [][]byte{{0xff, 0xff}, {1, 2, 3}}}),
		"truncated":                     def(&pb.Definition{Def: [][]byte{ok.Def[0][:5], ok.Def[1]}}),
		"end only":                      def(&pb.Definition{Def: ok.Def[1:]}),
		"no end":                        def(&pb.Definition{Def: ok.Def[:1]}),
		"zeros":                         def(&pb.Definition{Def: [][]byte{make([]byte, 4096)}}),
		"output too high":               def(wire(t, 1, source("local://x"))),
		"output out of all bounds":      def(wire(t, math.MaxInt64, source("local://x"))),
		"negative output":               def(wire(t, math.MinInt64, source("local://x"))),
		"op of no kind":                 ops(&pb.Op{Platform: &pb.Platform{}}),
		"input that is not there":       ops(cyclic),
		"input without digest":          ops(&pb.Op{Inputs: []*pb.Input{{}}, Op: &pb.Op_Merge{Merge: &pb.MergeOp{}}}),
		"source without kind":           ops(source("x")),
		"source of no kind":             ops(source("://")),
		"unknown source":                ops(source("gopher://x")),
		"image with a bad name":         ops(source("docker-image://UPPER CASE")),
		"image without name":            ops(source("docker-image://")),
		"image with a bad limit":        ops(source("docker-image://x", pb.AttrImageLayerLimit, "99999999999999999999")),
		"layout without store":          ops(source("oci-layout://x@sha256:" + strings.Repeat("0", 64))),
		"git without name":              ops(source("git://")),
		"http without host":             ops(source("http://")),
		"local without client":          ops(source("local://context")),
		"local with bad patterns":       ops(source("local://x", pb.AttrIncludePatterns, "{{{")),
		"process without anything":      ops(&pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{}}}),
		"process without root":          ops(exec()),
		"process with nil mount":        ops(exec(root(), &pb.Mount{})),
		"mount of no input":             ops(exec(&pb.Mount{Input: math.MaxInt64, Dest: "/"})),
		"mount of a negative input":     ops(exec(&pb.Mount{Input: math.MinInt64, Dest: "/"})),
		"mount with a huge output":      ops(exec(&pb.Mount{Input: -1, Dest: "/", Output: math.MaxInt64})),
		"mount of unknown type":         ops(exec(root(), &pb.Mount{Input: -1, Output: -1, Dest: "/x", MountType: 99})),
		"secret without options":        ops(exec(root(), &pb.Mount{Input: -1, Output: -1, Dest: "/x", MountType: pb.MountType_SECRET})),
		"secret without client":         ops(exec(root(), &pb.Mount{Input: -1, Output: -1, Dest: "/x", MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "x"}})),
		"ssh without client":            ops(exec(root(), &pb.Mount{Input: -1, Output: -1, Dest: "/x", MountType: pb.MountType_SSH, SSHOpt: &pb.SSHOpt{}})),
		"cache without options":         ops(exec(root(), &pb.Mount{Input: -1, Output: -1, Dest: "/x", MountType: pb.MountType_CACHE})),
		"process in an empty root":      ops(exec(root())),
		"file without actions":          ops(file()),
		"file with an empty action":     ops(file(&pb.FileAction{})),
		"file with an action of nobody": ops(file(action(-1, -1, 0, &pb.FileAction{}))),
		"action on a huge input":        ops(file(action(math.MaxInt64, -1, 0, mkfile("/x")))),
		"action on itself":              ops(file(action(0, -1, 0, mkfile("/x")))),
		"action without output":         ops(file(action(-1, -1, -1, mkfile("/x")))),
		"action with a huge output":     ops(file(action(-1, -1, math.MaxInt64, mkfile("/x")))),
		"action in no directory":        ops(file(action(-1, -1, 0, mkfile("/a/b/c")))),
		"file instead of the root":      ops(file(action(-1, -1, 0, mkfile("/")))),
		"long path":                     ops(file(action(-1, -1, 0, mkfile(strings.Repeat("/a", 9000))))),
		"long name":                     ops(file(action(-1, -1, 0, mkfile("/"+strings.Repeat("a", 300))))),
		"copy from nowhere":             ops(file(action(-1, -1, 0, &pb.FileAction{Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: "/x", Dest: "/"}}}))),
		"merge of nothing":              ops(&pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{}}}),
		"merge of an unknown input":     ops(&pb.Op{Op: &pb.Op_Merge{Merge: &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 7}}}}}),
		"empty diff":                    ops(&pb.Op{Op: &pb.Op_Diff{Diff: &pb.DiffOp{}}}),
		"nested build":                  ops(&pb.Op{Op: &pb.Op_Build{Build: &pb.BuildOp{Builder: -1}}}),
		"empty nested build":            ops(&pb.Op{Op: &pb.Op_Build{}}),
		"unknown capability": meta(func(d *pb.Definition, dgst string) {
			d.Metadata[dgst] = &pb.OpMetadata{Caps: map[string]bool{"tea": true}}
		}),
		"location without file": meta(func(d *pb.Definition, dgst string) {
			d.Source = &pb.Source{Locations: map[string]*pb.Locations{dgst: {Locations: []*pb.Location{{SourceIndex: math.MaxInt32}}}}}
		}),
		"negative location": meta(func(d *pb.Definition, dgst string) {
			d.Source = &pb.Source{Infos: []*pb.SourceInfo{{}}, Locations: map[string]*pb.Locations{dgst: {Locations: []*pb.Location{{SourceIndex: -1}}}}}
		}),
		"forty diamonds":               def(diamonds(t, 40, nowhere)),
		"forty diamonds, late":         def(diamonds(t, 40, llb.Local("x", llb.LocalOptions{}, llb.Meta{}))),
		"too long a chain":             def(chain(t, 12_001, llb.Output{})),
		"a chain as long as can be":    def(chain(t, 20_000, llb.Output{})),
		"too many ops":                 def(&pb.Definition{Def: make([][]byte, 30_000)}),
		"network.host":                 ops(&pb.Op{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{Args: []string{"x"}, Cwd: "/"}, Mounts: []*pb.Mount{root()}, Network: pb.NetMode_HOST}}}),
		"entitlement":                  {Definition: ok, Entitlements: []string{"security.insecure"}},
		"unknown entitlement":          {Definition: ok, Entitlements: []string{""}},
		"definition and frontend":      {Definition: ok, Frontend: "dockerfile.v0"},
		"unknown frontend":             front("magic.v9"),
		"frontend as image":            front("gateway.v0", "source", "docker/dockerfile:1"),
		"frontend without client":      front("dockerfile.v0"),
		"frontend with a bad platform": front("dockerfile.v0", "platform", "a/b/c/d/e/f"),
		"frontend with bad inputs":     {Frontend: "dockerfile.v0", FrontendInputs: map[string]*pb.Definition{"dockerfile": {Def: [][]byte{{0xff}}}}},
		"unknown exporter":             exports("teleport"),
		"exporter of no kind":          exports(""),
		"exporter with unknown option": exports("image", "no-such-option", "1"),
		"exporter without client":      exports("local"),
		"bad image name":               exports("image", "name", "UPPER CASE"),
		"bad compression":              exports("image", "name", "x", "compression", "rar"),
		"bad compression level":        exports("image", "name", "x", "compression-level", "high"),
		"unknown cache":                caches("magic"),
		"cache without a name":         caches("registry"),
		"cache without a directory":    caches("local"),
		"cache twice":                  caches("local", "local"),
		"deprecated unknown exporter":  {Definition: ok, ExporterDeprecated: "teleport"},
		"source policy":                {Definition: ok, SourcePolicy: &spb.Policy{Rules: []*spb.Rule{nil}}},
		"compatibility version":        {Definition: ok, CompatibilityVersion: 15},
		"negative compatibility":       {Definition: ok, CompatibilityVersion: math.MinInt64},
	}
}

// Whatever a client asks, it is told what is wrong, at once, and other builds go on.
func TestBadRequests(t *testing.T) {
	s := start(t)
	c := s.control()
	// An ordinary build runs all the while.
	ordinary := solve(t.Context(), s.control(), &controlapi.SolveRequest{Ref: "ordinary", Definition: marshal(t, sh(base(1), "/bin/busybox sleep 87654 || true", llb.Meta{}))})
	pid := process(t, "sleep", "87654")

	requests := badRequests(t)
	if len(requests) < 40 {
		t.Errorf("only %d requests", len(requests))
	}
	for name, req := range requests {
		t.Run(name, func(t *testing.T) {
			req.Ref = strings.ReplaceAll(name, " ", "-")
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			resp, err := c.Solve(ctx, req)
			if err == nil {
				t.Fatalf("answered with %v", resp)
			}
			clean(t, err)
			// What was shown ends, too.
			if st := read(c.Status(ctx, &controlapi.StatusRequest{Ref: req.Ref})); st.err != nil {
				t.Errorf("its status: %v", st.err)
			}
		})
	}
	for name, req := range map[string]*controlapi.SolveRequest{"nil": nil, "empty": {}, "no ref": {Frontend: "dockerfile.v0"}} {
		if _, err := (&control{d: s.Daemon}).Solve(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v", name, err)
		}
	}
	signal(t, pid)
	if r := wait(t, ordinary); r.err != nil {
		t.Errorf("the ordinary build: %v", r.err)
	}
}

// Odd requests that nevertheless make sense.
func TestOddRequests(t *testing.T) {
	s := start(t)
	c := s.control()
	ok := marshal(t, tiny("fine"))
	loose := proto.Clone(ok).(*pb.Definition)
	loose.Metadata = map[string]*pb.OpMetadata{"sha256:unknown": {}, "": {}}
	loose.Source = &pb.Source{Infos: []*pb.SourceInfo{{}}, Locations: map[string]*pb.Locations{"": {}, "x": {Locations: []*pb.Location{{SourceIndex: 9}}}}}
	for name, req := range map[string]*controlapi.SolveRequest{
		"scratch":                {Definition: &pb.Definition{}},
		"scratch, exported":      {Definition: &pb.Definition{}, Exporters: []*controlapi.Exporter{{Type: "cacheonly"}}},
		"metadata of nothing":    {Definition: loose},
		"cache that is not here": {Definition: ok, Cache: &controlapi.CacheOptions{ImportRefsDeprecated: []string{""}, Imports: []*controlapi.CacheOptionsEntry{{}, nil, {Type: "magic"}, {Type: "local"}, {Type: "registry"}}}},
		"deprecated exporter":    {Definition: ok, ExporterDeprecated: "cacheonly", ExporterAttrsDeprecated: map[string]string{"a": "b"}},
		"empty policy":           {Definition: ok, SourcePolicy: &spb.Policy{}},
		"compatibility":          {Definition: ok, CompatibilityVersion: 30},
		"long ref":               {Definition: ok, Ref: strings.Repeat("r", 10_000)},
		"diamonds":               {Definition: diamonds(t, 6, llb.Output{})},
	} {
		t.Run(name, func(t *testing.T) {
			if req.Ref == "" {
				req.Ref = name
			}
			if _, err := c.Solve(t.Context(), req); err != nil {
				t.Error(err)
			}
		})
	}
}

// An unusable exporter is found before anything is built.
func TestExportersAreCheckedFirst(t *testing.T) {
	s := start(t)
	c := s.control()
	for i, e := range []*controlapi.Exporter{{Type: "teleport"}, {Type: "image", Attrs: map[string]string{"compression": "rar"}}} {
		id := fmt.Sprint(i)
		_, err := c.Solve(t.Context(), &controlapi.SolveRequest{Ref: id, Definition: marshal(t, tiny(id)), Exporters: []*controlapi.Exporter{{Type: "cacheonly"}, e}})
		if err == nil {
			t.Fatal("should be refused")
		}
		if st := read(c.Status(t.Context(), &controlapi.StatusRequest{Ref: id})); len(st.names) != 0 {
			t.Errorf("built %v", st.names)
		}
	}
}

func TestDeprecatedFields(t *testing.T) {
	r, err := newRequest(&controlapi.SolveRequest{
		Ref: "x", ExporterDeprecated: "oci", ExporterAttrsDeprecated: map[string]string{"a": "b"},
		FrontendAttrs: map[string]string{"build-arg:SOURCE_DATE_EPOCH": "7"},
		Cache:         &controlapi.CacheOptions{ImportRefsDeprecated: []string{"i", "j"}, ExportRefDeprecated: "e", ExportAttrsDeprecated: map[string]string{"mode": "max"}},
	})
	must(t, err)
	if e := r.exporters[0]; e.Type != "oci" || e.Attrs["a"] != "b" || e.Attrs["source-date-epoch"] != "7" {
		t.Errorf("exporter %v", e)
	}
	if len(r.imports) != 2 || r.imports[1].Type != "registry" || r.imports[1].Attrs["ref"] != "j" {
		t.Errorf("imports %v", r.imports)
	}
	if len(r.exports) != 1 || r.exports[0].Attrs["ref"] != "e" || r.exports[0].Attrs["mode"] != "max" {
		t.Errorf("exports %v", r.exports)
	}
	// Clients that know both forms send both; the new one counts.
	r, err = newRequest(&controlapi.SolveRequest{
		Ref: "x", ExporterDeprecated: "oci", Exporters: []*controlapi.Exporter{{Type: "local", Attrs: map[string]string{"source-date-epoch": "1"}}, nil},
		FrontendAttrs: map[string]string{"build-arg:SOURCE_DATE_EPOCH": "7"},
		Cache: &controlapi.CacheOptions{
			ImportRefsDeprecated: []string{"i"}, Imports: []*controlapi.CacheOptionsEntry{{Type: "local"}},
			ExportRefDeprecated: "e", Exports: []*controlapi.CacheOptionsEntry{{Type: "local"}},
		},
	})
	must(t, err)
	if len(r.exporters) != 2 || r.exporters[0].Attrs["source-date-epoch"] != "1" || len(r.imports) != 1 || r.imports[0].Type != "local" || len(r.exports) != 1 || r.exports[0].Type != "local" {
		t.Errorf("got %+v", r)
	}
}
