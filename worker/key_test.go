package worker_test

import (
	"testing"

	"github.com/dbuild/dbuild/llb"
	"github.com/moby/buildkit/solver/pb"
)

// What enters the key of a process. Each case builds a process twice, over inputs a and b;
// it runs once if they are the same to it.
func TestProcessKey(t *testing.T) {
	root := files("/bin", "x")
	// The same content, made in two ways: no key of theirs is equal.
	a := files("/f", "1", "/g", "2")
	same := llb.File(files("/g", "2"), []llb.FileAction{llb.Mkfile{Path: "/f", Mode: 0o644, Data: []byte("1")}}, llb.Meta{})
	more := files("/f", "1", "/g", "2", "/h", "3")
	other := files("/f", "changed", "/g", "2")

	ro := llb.Mount{Target: "/a", Readonly: true}
	rw := llb.Mount{Target: "/b"}
	mount := func(m llb.Mount, src llb.Output) llb.Mount { m.Source = src; return m }
	at := func(m llb.Mount, target string) llb.Mount { m.Target = target; return m }
	part := func(m llb.Mount, selector string) llb.Mount { m.Selector = selector; return m }
	uncounted := ro
	uncounted.ContentCache = pb.MountContentCache_OFF
	cached := llb.Mount{Target: "/c", CacheID: "id"}
	thrown := llb.Mount{Target: "/b", NoOutput: true}

	for name, tt := range map[string]struct {
		over func(llb.Output) llb.Output
		a, b llb.Output
		once bool
	}{
		"root by key":              {func(o llb.Output) llb.Output { return run(o, "x").Root() }, a, same, false},
		"root, equal":              {func(o llb.Output) llb.Output { return run(o, "x").Root() }, a, files("/f", "1", "/g", "2"), true},
		"read-only by content":     {func(o llb.Output) llb.Output { return run(root, "x", mount(ro, o)).Root() }, a, same, true},
		"read-only, other content": {func(o llb.Output) llb.Output { return run(root, "x", mount(ro, o)).Root() }, a, other, false},
		"read-only, more content":  {func(o llb.Output) llb.Output { return run(root, "x", mount(ro, o)).Root() }, a, more, false},
		"read-only, a part":        {func(o llb.Output) llb.Output { return run(root, "x", part(mount(ro, o), "/g")).Root() }, more, other, true},
		"read-only, two parts": {func(o llb.Output) llb.Output {
			return run(root, "x", part(mount(ro, o), "/g"), part(mount(at(ro, "/z"), o), "/f")).Root()
		}, a, more, true},
		"read-only, another part":      {func(o llb.Output) llb.Output { return run(root, "x", part(mount(ro, o), "/f")).Root() }, a, other, false},
		"read-only, content cache off": {func(o llb.Output) llb.Output { return run(root, "x", mount(uncounted, o)).Root() }, a, same, false},
		"read-only, then writable":     {func(o llb.Output) llb.Output { return run(root, "x", mount(ro, o), mount(rw, o)).Root() }, a, same, false},
		"writable, then read-only": {func(o llb.Output) llb.Output {
			return run(root, "x", mount(at(rw, "/a"), o), mount(at(ro, "/b"), o)).Root()
		}, a, same, false},
		"read-only, then writable, discarded": {func(o llb.Output) llb.Output { return run(root, "x", mount(ro, o), mount(thrown, o)).Root() }, a, same, true},
		"discarded, then read-only": {func(o llb.Output) llb.Output {
			return run(root, "x", mount(at(thrown, "/a"), o), mount(at(ro, "/b"), o)).Root()
		}, a, same, true},
		"discarded":                      {func(o llb.Output) llb.Output { return run(root, "x", mount(thrown, o)).Root() }, a, same, true},
		"discarded, other content":       {func(o llb.Output) llb.Output { return run(root, "x", mount(thrown, o)).Root() }, a, other, false},
		"root and read-only":             {func(o llb.Output) llb.Output { return run(o, "x", mount(ro, o)).Root() }, a, same, false},
		"read-only and start of a cache": {func(o llb.Output) llb.Output { return run(root, "x", mount(ro, o), mount(cached, o)).Root() }, a, same, false},
		"start of a cache and read-only": {func(o llb.Output) llb.Output { return run(root, "x", mount(cached, o), mount(at(ro, "/d"), o)).Root() }, a, same, false},
		"read-only twice":                {func(o llb.Output) llb.Output { return run(root, "x", mount(ro, o), mount(at(ro, "/b"), o)).Root() }, a, same, true},
		"read-only root":                 {func(o llb.Output) llb.Output { return readOnlyRoot(o) }, a, same, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			first, _ := w.build(tt.over(tt.a))
			second, _ := w.build(tt.over(tt.b))
			if (first == second) != tt.once {
				t.Errorf("equal keys: %v, want %v", first == second, tt.once)
			}
			want := 2
			if tt.once {
				want = 1
			}
			if n := w.exec.runs(); n != want {
				t.Errorf("%d runs, want %d", n, want)
			}
		})
	}
}

func readOnlyRoot(root llb.Output) llb.Output {
	out, _ := llb.Exec(llb.ExecOptions{
		Root: root, RootReadonly: true, Args: []string{"x"}, Cwd: "/", Mounts: []llb.Mount{{Target: "/out"}},
	}, llb.Meta{}).Mount("/out")
	return out
}

// What of a process itself enters its key.
func TestProcessOptionsInKey(t *testing.T) {
	root := files("/bin", "x")
	base := llb.ExecOptions{Root: root, Args: []string{"x"}, Cwd: "/"}
	for name, tt := range map[string]struct {
		change func(*llb.ExecOptions, *llb.Meta)
		same   bool
	}{
		"nothing":     {func(*llb.ExecOptions, *llb.Meta) {}, true},
		"name":        {func(_ *llb.ExecOptions, m *llb.Meta) { m.Name = "other" }, true},
		"constraints": {func(_ *llb.ExecOptions, m *llb.Meta) { m.Constraints = []string{"x"} }, true},
		"proxy": {func(o *llb.ExecOptions, _ *llb.Meta) {
			o.Proxy = &pb.ProxyEnv{HttpProxy: "p", HttpsProxy: "p", FtpProxy: "p", NoProxy: "p", AllProxy: "p"}
		}, true},
		"args":       {func(o *llb.ExecOptions, _ *llb.Meta) { o.Args = []string{"y"} }, false},
		"env":        {func(o *llb.ExecOptions, _ *llb.Meta) { o.Env = []string{"a=b"} }, false},
		"dir":        {func(o *llb.ExecOptions, _ *llb.Meta) { o.Cwd = "/tmp" }, false},
		"user":       {func(o *llb.ExecOptions, _ *llb.Meta) { o.User = "1" }, false},
		"platform":   {func(o *llb.ExecOptions, _ *llb.Meta) { p := amd; p.Architecture = "386"; o.Platform = &p }, false},
		"network":    {func(o *llb.ExecOptions, _ *llb.Meta) { o.Network = pb.NetMode_NONE }, false},
		"exit codes": {func(o *llb.ExecOptions, _ *llb.Meta) { o.ExitCodes = []int32{0, 1} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			want, _ := w.build(llb.Exec(base, llb.Meta{}).Root())
			o, m := base, llb.Meta{}
			tt.change(&o, &m)
			got, _ := w.build(llb.Exec(o, m).Root())
			if (got == want) != tt.same {
				t.Errorf("equal keys: %v, want %v", got == want, tt.same)
			}
		})
	}
}

// A copy is keyed by what it reads of its source, and by the key of what it is put on.
func TestCopyKey(t *testing.T) {
	src := files("/f", "1", "/g", "2")
	made := llb.File(files("/g", "other"), []llb.FileAction{llb.Mkfile{Path: "/f", Mode: 0o644, Data: []byte("1")}}, llb.Meta{})
	copyOf := func(base, src llb.Output, path string) llb.Output {
		return llb.File(base, []llb.FileAction{llb.Copy{From: src, Src: path, Dest: "/", Mode: llb.KeepMode}}, llb.Meta{})
	}
	w := newWorld(t)
	a, _ := w.build(copyOf(files("/base", ""), src, "/f"))
	if b, _ := w.build(copyOf(files("/base", ""), made, "/f")); a != b {
		t.Error("what else is in the source is in the key")
	}
	if b, _ := w.build(copyOf(files("/base", ""), made, "/g")); a == b {
		t.Error("the path is not in the key")
	}
	if b, _ := w.build(copyOf(llb.File(files("/base", ""), []llb.FileAction{llb.Mkdir{Path: "/d"}}, llb.Meta{}), src, "/f")); a == b {
		t.Error("the base is not in the key")
	}
	// A source that is also the base, or in which a name is looked up, is read by key.
	if a, _ := w.build(copyOf(src, src, "/f")); a == w.keyOf(copyOf(made, made, "/f")) {
		t.Error("the base is keyed by content")
	}
}
