package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/buildkit/client"
)

// shapesDir has a directory for each shape: a Dockerfile whose cache is carried from one
// builder to another. NAME.lib is another context of NAME.
var shapesDir = filepath.Join("..", "..", "testdata", "cacheshapes")

// shapeArgs are what shapes are built with.
var shapeArgs = map[string]buildWith{
	"mounts":    {secret: true},
	"args":      {args: []string{"FLAVOUR=sweet", "VERSION=7", "NUMBER=42", "UNUSED=1"}},
	"platforms": {platforms: "linux/amd64,linux/arm64"},
	"exports":   {ours: true},
}

// buildWith is what a build is told, whoever the client is.
type buildWith struct {
	args      []string
	platforms string
	secret    bool // named token
	ours      bool // the Dockerfile is in our language
}

// A route is a cache on its way: where it is read from, and by whom.
type route struct {
	name    string
	from    func(c *carrier, shape string) string
	theirs  bool // BuildKit wrote it
	visitor bool // BuildKit reads it
}

// routes are the columns of the table in docs/cache-interop.md.
var routes = []route{
	{name: "dbuild, registry", from: func(c *carrier, shape string) string { return c.inRegistry("ours", shape) }},
	{name: "dbuild, local", from: func(c *carrier, shape string) string { return "type=local,src=" + c.local(shape) }},
	{name: "dbuild, inline", from: func(c *carrier, shape string) string { return c.inRegistry("app", shape) }},
	{name: "BuildKit → dbuild", from: func(c *carrier, shape string) string { return c.inRegistry("theirs", shape) }, theirs: true},
	{name: "dbuild → BuildKit", from: func(c *carrier, shape string) string { return c.inRegistry("ours", shape) }, visitor: true},
}

// TestCacheShapes builds each shape, and once more where nothing is there but the cache that
// the first build wrote. What is found is what the table in docs/cache-interop.md says, and our
// daemon reads no layer for it.
func TestCacheShapes(t *testing.T) {
	c := newCarrier(t)
	table := shapesTable(t)
	shapes := slices.Sorted(maps.Keys(table))
	for _, shape := range shapes {
		made := []stepsFound{c.dbuild(shape, "--cache-to", c.inRegistry("ours", shape)+",mode=max", "--cache-to", "type=local,mode=max,dest="+c.local(shape),
			"--cache-to", "type=inline", "-o", "type=image,push=true,name="+c.reg.addr+"/app/"+shape)}
		if !shapeArgs[shape].ours {
			made = append(made, c.buildctl(shape, "--export-cache", c.inRegistry("theirs", shape)+",mode=max"))
		}
		for _, f := range made {
			if len(f.missed) != f.steps || fmt.Sprint(f.steps) != table[shape].steps {
				t.Errorf("%s: %d of %d steps were made, and %s are in docs/cache-interop.md", shape, len(f.missed), f.steps, table[shape].steps)
			}
		}
	}
	for i, r := range routes {
		c.empty()
		for _, shape := range shapes {
			got := "–"
			switch {
			case shapeArgs[shape].ours && (r.theirs || r.visitor):
			case r.visitor:
				got = c.buildctl(shape, "--import-cache", r.from(c, shape)).String()
			default:
				got = c.dbuild(shape, "--cache-from", r.from(c, shape), "-o", "type=cacheonly").String()
				if gets := c.reg.takeGets(); len(gets) > 0 {
					t.Errorf("%s: %s: %d layers were read: %v", r.name, shape, len(gets), gets)
				}
			}
			if want := table[shape].found[i]; got != want {
				t.Errorf("%s: %s: found are %s, and %s in docs/cache-interop.md", r.name, shape, got, want)
			}
		}
	}
	c.planned(shapes)
}

// planned checks that a plan finds every step in the caches that BuildKit wrote.
func (c *carrier) planned(shapes []string) {
	c.t.Helper()
	c.empty()
	for _, shape := range shapes {
		if shapeArgs[shape].ours {
			continue
		}
		args := append([]string{"--addr", c.s.addr(), "plan", "--cache-from", c.inRegistry("theirs", shape)}, c.flags(shape)...)
		cmd := exec.Command(c.s.bin, args...)
		cmd.Env = append(os.Environ(), "HOME="+c.s.home())
		if out, err := cmd.CombinedOutput(); err != nil {
			c.t.Errorf("the plan of %s: %v\n%s", shape, err, out)
		}
		if gets := c.reg.takeGets(); len(gets) > 0 {
			c.t.Errorf("the plan of %s: %d layers were read: %v", shape, len(gets), gets)
		}
	}
}

// TestCacheShapesAreDocumented checks that the table has a row for each shape, and no other.
func TestCacheShapesAreDocumented(t *testing.T) {
	table := shapesTable(t)
	files, err := filepath.Glob(filepath.Join(shapesDir, "*", "Dockerfile"))
	check(t, err)
	for _, f := range files {
		name := filepath.Base(filepath.Dir(f))
		if _, ok := table[name]; !ok {
			t.Errorf("docs/cache-interop.md does not have %s", name)
		}
		delete(table, name)
	}
	for name := range table {
		t.Errorf("docs/cache-interop.md has %s, which is not in testdata/cacheshapes", name)
	}
}

// A shapeRow is a row of the table: how many steps a shape has, and by route, which were found.
type shapeRow struct {
	steps string
	found []string
}

// shapesTable reads the table of docs/cache-interop.md.
func shapesTable(t *testing.T) map[string]shapeRow {
	t.Helper()
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "cache-interop.md"))
	check(t, err)
	head := "| shape | what | steps |"
	for _, r := range routes {
		head += " " + r.name + " |"
	}
	_, rest, ok := strings.Cut(string(doc), head+"\n")
	if !ok {
		t.Fatalf("docs/cache-interop.md has no table with the head %s", head)
	}
	table := map[string]shapeRow{}
	for line := range strings.Lines(rest) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(cells) != 3+len(routes) {
			break
		}
		if name := strings.Trim(cells[0], "`"); name != cells[0] {
			table[name] = shapeRow{cells[2], cells[3:]}
		}
	}
	return table
}

// A carrier has both builders, and what lies between them.
type carrier struct {
	t     *testing.T
	s     *state
	tools string
	reg   *registry
	bk    string // BuildKit's address
	token string // a file
}

func newCarrier(t *testing.T) *carrier {
	bin, tools := programs(t)
	s, err := newState(bin)
	check(t, err)
	t.Cleanup(s.close)
	c := &carrier{t: t, s: s, tools: tools, token: filepath.Join(s.dir, "token")}
	check(t, os.WriteFile(c.token, []byte("secret"), 0o600))
	c.reg, err = newRegistry(filepath.Join(s.dir, "registry"))
	check(t, err)
	s.registries["REG"] = c.reg
	bk, stop, err := startBuildkitd(tools, filepath.Join(s.dir, "buildkitd"))
	check(t, err)
	t.Cleanup(stop)
	c.bk = bk
	www := filepath.Join(s.dir, "www")
	work := filepath.Join(s.dir, "work")
	check(t, os.MkdirAll(www, 0o755))
	check(t, os.MkdirAll(filepath.Join(work, "sub"), 0o755))
	for _, f := range []string{filepath.Join(www, "file.txt"), filepath.Join(work, "sub", "in-git")} {
		check(t, os.WriteFile(f, []byte("a file of a server\n"), 0o644))
	}
	for _, args := range [][]string{
		{"init", "-q", "-b", "trunk", work},
		{"-C", work, "add", "."},
		{"-C", work, "-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "one"},
		{"clone", "-q", "--bare", work, filepath.Join(www, "repo.git")},
	} {
		c.run("git", args...)
	}
	s.server = newServer(www)
	check(t, s.start())
	base := filepath.Join(s.dir, "base")
	check(t, writeBase(base))
	c.run(bin, "--addr", s.addr(), "-q", "-t", c.reg.addr+"/base", "--push", base)
	onbuild := filepath.Join(shapesDir, "onbuild")
	c.run(bin, "--addr", s.addr(), "-q", "-t", c.reg.addr+"/onbuild", "--push", "--build-arg", "REG="+c.reg.addr, "-f", filepath.Join(onbuild, "Template"), onbuild)
	return c
}

func (c *carrier) inRegistry(whose, shape string) string {
	return "type=registry,ref=" + c.reg.addr + "/" + whose + "/" + shape
}

func (c *carrier) local(shape string) string { return filepath.Join(c.s.dir, "caches", shape) }

// empty makes both daemons know nothing.
func (c *carrier) empty() {
	c.t.Helper()
	check(c.t, c.s.stop(syscall.SIGTERM))
	check(c.t, os.RemoveAll(c.s.root()))
	check(c.t, c.s.start())
	c.run(filepath.Join(c.tools, "buildctl"), "--addr", c.bk, "prune", "--all")
	c.reg.Forget()
}

// context is the directory of a shape, and of its other context, if it has one.
func (c *carrier) context(shape string) (dir, lib string) {
	dir = filepath.Join(shapesDir, shape)
	if _, err := os.Stat(dir + ".lib"); err != nil {
		return dir, ""
	}
	return dir, dir + ".lib"
}

func (c *carrier) args(shape string) []string {
	return append([]string{"REG=" + c.reg.addr, "URL=" + c.s.server.URL}, shapeArgs[shape].args...)
}

// dbuild builds a shape with our client and daemon.
func (c *carrier) dbuild(shape string, more ...string) stepsFound {
	c.t.Helper()
	args := append([]string{"--addr", c.s.addr(), "build", "--progress", "rawjson"}, more...)
	return countSteps(c.t, c.run(c.s.bin, append(args, c.flags(shape)...)...))
}

// flags are what our client is told of a shape.
func (c *carrier) flags(shape string) (args []string) {
	dir, lib := c.context(shape)
	with := shapeArgs[shape]
	for _, a := range c.args(shape) {
		args = append(args, "--build-arg", a)
	}
	if with.platforms != "" {
		args = append(args, "--platform", with.platforms)
	}
	if with.secret {
		args = append(args, "--secret", "id=token,src="+c.token)
	}
	if lib != "" {
		args = append(args, "--build-context", "lib="+lib)
	}
	return append(args, dir)
}

// buildctl builds a shape with BuildKit.
func (c *carrier) buildctl(shape string, more ...string) stepsFound {
	c.t.Helper()
	dir, lib := c.context(shape)
	with := shapeArgs[shape]
	args := append([]string{
		"--addr", c.bk, "build", "--progress", "rawjson", "--frontend", "dockerfile.v0",
		"--local", "context=" + dir, "--local", "dockerfile=" + dir,
	}, more...)
	for _, a := range c.args(shape) {
		args = append(args, "--opt", "build-arg:"+a)
	}
	if with.platforms != "" {
		args = append(args, "--opt", "platform="+with.platforms)
	}
	if with.secret {
		args = append(args, "--secret", "id=token,src="+c.token)
	}
	if lib != "" {
		args = append(args, "--local", "lib="+lib, "--opt", "context:lib=local:lib")
	}
	return countSteps(c.t, c.run(filepath.Join(c.tools, "buildctl"), args...))
}

// run runs a program and returns what it said.
func (c *carrier) run(name string, args ...string) []byte {
	c.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "HOME="+c.s.home())
	out, err := cmd.CombinedOutput()
	if err != nil {
		c.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// stepsFound are the steps of a build. A FROM, or what an ADD fetches, is none: such a source is
// looked up again for each build.
type stepsFound struct {
	steps  int
	missed []string
}

func (f stepsFound) String() string {
	if len(f.missed) == 0 {
		return "all"
	}
	return fmt.Sprintf("%d: not %s", f.steps-len(f.missed), strings.Join(f.missed, "; "))
}

var stepName = regexp.MustCompile(`^\[(.* )?[0-9]+/[0-9]+\] `)

// countSteps reads a display in JSON. A step that was neither begun nor found was not needed,
// because of something else that was found.
func countSteps(t *testing.T, out []byte) stepsFound {
	t.Helper()
	last := map[string]*client.Vertex{}
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var s client.SolveStatus
		if json.Unmarshal(lines.Bytes(), &s) != nil {
			continue
		}
		for _, v := range s.Vertexes {
			if stepName.MatchString(v.Name) && len(v.Inputs) > 0 {
				last[v.Digest.String()] = v
			}
		}
	}
	check(t, lines.Err())
	f := stepsFound{steps: len(last)}
	if f.steps == 0 {
		t.Fatalf("no steps in\n%s", out)
	}
	for _, v := range last {
		if v.Started != nil && !v.Cached {
			f.missed = append(f.missed, v.Name)
		}
	}
	return f
}
