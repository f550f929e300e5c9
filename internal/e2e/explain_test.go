package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/explain"
)

// A causeRow is one reason for which a step is not found in the cache. A build is made from
// files; then something changes, and it is built again.
type causeRow struct {
	name     string
	files    map[string]string
	args     []string // of both builds
	once     []string // of the first build only
	again    []string // of the second only
	change   map[string]string
	between  func(*explained)
	fails    bool   // the second build does
	step     string // that is asked about: part of its name
	kind     explain.CauseKind
	says     string // matches the sentence
	follower string // a step that follows from it
}

const app = "FROM base\nCOPY src /NAME\nRUN echo NAME\n"

var causes = []causeRow{
	{
		name: "file content", files: map[string]string{"Dockerfile": app, "src/main.go": "a", "src/x": "x"},
		change: map[string]string{"src/main.go": "b"},
		step:   "COPY src", kind: explain.FileContent, says: `^"src/main.go" changed \(content\)$`, follower: "RUN echo",
	},
	{
		name: "cached but different", files: map[string]string{"Dockerfile": app, "other": "FROM base\nCOPY src /NAME\n", "src/f": "1"},
		change: map[string]string{"src/f": "2"},
		between: func(e *explained) {
			e.must("build", "-f", filepath.Join(e.dir, "other"), "-o", "type=cacheonly", e.dir)
		},
		step: "RUN echo", kind: explain.Follows, says: `^it follows from .* COPY src /cached-but-different, which was cached, but differs: "src/f" changed \(content\)$`,
	},
	{
		name: "file mode", files: map[string]string{"Dockerfile": app, "src/run.sh": "a"},
		between: func(e *explained) { check(e.t, os.Chmod(filepath.Join(e.dir, "src/run.sh"), 0o755)) },
		step:    "COPY src", kind: explain.FileMode, says: `^"src/run.sh" changed \(mode -rw-r--r-- -> -rwxr-xr-x\)$`, follower: "RUN echo",
	},
	{
		name: "file name", files: map[string]string{"Dockerfile": app, "src/old.go": "package x"},
		between: func(e *explained) {
			check(e.t, os.Rename(filepath.Join(e.dir, "src/old.go"), filepath.Join(e.dir, "src/new.go")))
		},
		step: "COPY src", kind: explain.FileRenamed, says: `^"src/old.go" is now named "src/new.go"$`,
	},
	{
		name: "file added", files: map[string]string{"Dockerfile": app, "src/a": "a"},
		change: map[string]string{"src/sub/b": "b"},
		step:   "COPY src", kind: explain.FileAdded, says: `^"src/sub/b" is new$`,
	},
	{
		name: "file removed", files: map[string]string{"Dockerfile": app, "src/a": "a", "src/b": "b"},
		between: func(e *explained) { check(e.t, os.Remove(filepath.Join(e.dir, "src/b"))) },
		step:    "COPY src", kind: explain.FileRemoved, says: `^"src/b" is gone$`,
	},
	{
		name: "ignore file", files: map[string]string{"Dockerfile": app, "src/a": "a", "src/b.log": "b", ".dockerignore": "# none\n"},
		change: map[string]string{".dockerignore": "# logs\n\n*.tmp\n**/*.log\n"},
		step:   "COPY src", kind: explain.IgnoreFile, says: `^"src/b.log" is gone: .dockerignore:4 "\*\*/\*.log" now excludes it$`,
	},
	{
		name: "ignore file lets in", files: map[string]string{"Dockerfile": app, "src/a": "a", "src/b.log": "b", ".dockerignore": "**/*.log\n"},
		change: map[string]string{".dockerignore": "# none\n"},
		step:   "COPY src", kind: explain.IgnoreFile, says: `^"src/b.log" is new: .dockerignore no longer excludes it`,
	},
	{
		name:  "build argument",
		files: map[string]string{"Dockerfile": "FROM base\nRUN echo NAME\nARG GIT_SHA\nRUN echo make\n"},
		once:  []string{"--build-arg", "GIT_SHA=a1b2"}, again: []string{"--build-arg", "GIT_SHA=c3d4"},
		step: "RUN echo make", kind: explain.BuildArg, says: `^the build argument GIT_SHA changed \(a1b2 -> c3d4\), visible since line 3$`,
	},
	{
		name:  "build argument that is new",
		files: map[string]string{"Dockerfile": "FROM base\nRUN echo NAME\nARG GIT_SHA\nRUN echo make\n"},
		again: []string{"--build-arg", "GIT_SHA=c3d4"},
		step:  "RUN echo make", kind: explain.BuildArg, says: `^the build argument GIT_SHA is set here now \(c3d4\), visible since line 3$`,
	},
	{
		name: "base image moved", files: map[string]string{"Dockerfile": "FROM moving\nRUN echo NAME\n"},
		between: func(e *explained) { e.base("moving", "second") },
		step:    "FROM", kind: explain.Source, says: `^moving:latest now means sha256:[0-9a-f]{12}, it was sha256:[0-9a-f]{12}$`, follower: "RUN echo",
	},
	{
		name:   "order of arguments",
		files:  map[string]string{"Dockerfile": "FROM base\nARG A=1\nARG B=2\nRUN echo NAME\n"},
		change: map[string]string{"Dockerfile": "FROM base\nARG B=2\nARG A=1\nRUN echo NAME\n"},
		step:   "RUN echo", kind: explain.ArgOrder, says: `^the order of variables changed \(B, A, it was A, B\)$`,
	},
	{
		name:   "variable of the image",
		files:  map[string]string{"Dockerfile": "FROM base\nENV V=1\nRUN echo NAME\n"},
		change: map[string]string{"Dockerfile": "FROM base\nENV V=2\nRUN echo NAME\n"},
		step:   "RUN echo", kind: explain.Env, says: `^the environment variable V changed \(1 -> 2\), visible since line 2$`,
	},
	{
		name:   "secret id",
		files:  map[string]string{"Dockerfile": "FROM base\nRUN --mount=type=secret,id=npm echo NAME\n"},
		change: map[string]string{"Dockerfile": "FROM base\nRUN --mount=type=secret,id=npmrc echo NAME\n"},
		step:   "RUN --mount", kind: explain.Secret, says: `^the id of the secret is "npmrc", it was "npm"`,
	},
	{
		name:  "platform",
		files: map[string]string{"Dockerfile": "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"echo\", \"NAME\"]\n"},
		once:  []string{"--platform", "linux/amd64"}, again: []string{"--platform", "linux/arm64"},
		step: "RUN", kind: explain.Platform, says: `^the platform is linux/arm64, it was linux/amd64`,
	},
	{
		name: "evicted", files: map[string]string{"Dockerfile": "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"echo\", \"NAME\"]\n"},
		between: func(e *explained) { e.prune() },
		step:    "RUN", kind: explain.Evicted, says: `^nothing changed, but the result was removed from the cache by dbuild prune at \d\d:\d\d:\d\d$`,
	},
	{
		name: "no cache", files: map[string]string{"Dockerfile": app, "src/a": "a"}, again: []string{"--no-cache"},
		step: "RUN echo", kind: explain.NoCache, says: `^the build was told not to use the cache \(--no-cache\)$`,
	},
	{
		name:  "no cache for a stage",
		files: map[string]string{"Dockerfile": "FROM base AS one\nRUN echo NAME > /o\nFROM base AS two\nCOPY --from=one /o /o\n"},
		again: []string{"--no-cache-filter", "one"},
		step:  "RUN echo", kind: explain.NoCache, says: `--no-cache-filter=one`,
	},
	{
		name: "changed instruction", files: map[string]string{"Dockerfile": "FROM base\nRUN echo NAME one\nRUN echo after\n"},
		change: map[string]string{"Dockerfile": "FROM base\nRUN echo NAME two\nRUN echo after\n"},
		step:   "RUN echo changed-instruction two", kind: explain.Changed, says: `^the instruction changed \(it was RUN echo changed-instruction one\)$`, follower: "RUN echo after",
	},
	{
		name: "added instruction", files: map[string]string{"Dockerfile": "FROM base\nRUN echo NAME\nRUN echo after\n"},
		change: map[string]string{"Dockerfile": "FROM base\nRUN echo NAME\nRUN echo between\nRUN echo after\n"},
		step:   "RUN echo between", kind: explain.Added, says: `^the instruction is new$`, follower: "RUN echo after",
	},
	{
		name: "removed instruction", files: map[string]string{"Dockerfile": "FROM base\nRUN echo NAME\nRUN echo between\nRUN echo after\n"},
		change: map[string]string{"Dockerfile": "FROM base\nRUN echo NAME\nRUN echo after\n"},
		step:   "RUN echo after", kind: explain.Removed, says: `^the instruction before it was removed: RUN echo between$`,
	},
	{
		name: "changed mount", files: map[string]string{"Dockerfile": "FROM base\nRUN --mount=type=cache,target=/a echo NAME\n"},
		change: map[string]string{"Dockerfile": "FROM base\nRUN --mount=type=cache,target=/b echo NAME\n"},
		step:   "RUN --mount", kind: explain.Mount, says: `^the mount at "/b" is new|the mount at is "/b", it was "/a"`,
	},
	{
		name: "mounted files", files: map[string]string{"Dockerfile": "FROM base\nRUN --mount=type=bind,source=in,target=/in echo NAME\n", "in/f": "1", "out": "1"},
		change: map[string]string{"in/f": "2", "out": "2"},
		step:   "RUN --mount", kind: explain.FileContent, says: `^"in/f" changed \(content\)$`,
	},
	{
		name: "option", files: map[string]string{"Dockerfile": "FROM base\nWORKDIR /a\nRUN echo NAME\n"},
		change: map[string]string{"Dockerfile": "FROM base\nWORKDIR /a\nUSER user\nRUN echo NAME\n"},
		step:   "RUN echo", kind: explain.Option, says: `the user`,
	},
	{
		name: "remote cache lacks the record", files: map[string]string{"Dockerfile": "FROM base\nRUN echo NAME\n"},
		once:    []string{"--cache-to", "type=local,dest=CACHE,mode=max"},
		change:  map[string]string{"Dockerfile": "FROM base\nRUN echo NAME\nRUN echo more\n"},
		between: func(e *explained) { e.prune(); e.must("history", "rm", "--all") },
		again:   []string{"--cache-from", "type=local,src=CACHE"},
		step:    "RUN echo more", kind: explain.Import, says: `the imported cache \(local .*\) has no record of the step`,
	},
	{
		name:  "a failed step is tried again",
		files: map[string]string{"Dockerfile": "FROM base\nCOPY src /src\nRUN cat /src/needed\n", "src/a": "a"},
		fails: true, change: map[string]string{"src/b": "NAME"},
		step: "COPY src", kind: explain.FileAdded, says: `"src/b" is new`, follower: "RUN cat",
	},
}

// An explained is one row at work.
type explained struct {
	t   *testing.T
	s   *state
	dir string
}

func (e *explained) dbuild(args ...string) (string, error) {
	out, err := exec.Command(e.s.bin, append([]string{"--addr", e.s.addr()}, args...)...).CombinedOutput()
	return string(out), err
}

func (e *explained) must(args ...string) {
	e.t.Helper()
	if out, err := e.dbuild(args...); err != nil {
		e.t.Fatalf("dbuild %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// prune empties the cache.
func (e *explained) prune() {
	e.must("prune", "--all", "--force")
	e.base("base", "")
}

// base makes an image with a mark in it.
func (e *explained) base(name, mark string) {
	e.t.Helper()
	dir := e.t.TempDir()
	check(e.t, writeBase(dir))
	f, err := os.OpenFile(filepath.Join(dir, "Dockerfile"), os.O_APPEND|os.O_WRONLY, 0)
	check(e.t, err)
	if mark != "" {
		_, err = f.WriteString("RUN echo " + mark + " > /mark\n")
	}
	check(e.t, err)
	check(e.t, f.Close())
	e.must("-q", "-t", name, dir)
}

func (e *explained) write(files map[string]string, name string) {
	for p, text := range files {
		p = filepath.Join(e.dir, p)
		check(e.t, os.MkdirAll(filepath.Dir(p), 0o755))
		check(e.t, os.WriteFile(p, []byte(strings.ReplaceAll(text, "NAME", name)), 0o644))
	}
}

// TestExplain builds twice for each cause that a step is not cached, and asks why.
func TestExplain(t *testing.T) {
	bin, _ := programs(t)
	s, err := newState(bin)
	check(t, err)
	t.Cleanup(s.close)
	check(t, s.start())
	first := &explained{t: t, s: s}
	first.base("base", "")
	first.base("moving", "first")
	for _, row := range causes {
		t.Run(row.name, func(t *testing.T) { row.run(t, s) })
	}
}

func (row *causeRow) run(t *testing.T, s *state) {
	e := &explained{t: t, s: s, dir: t.TempDir()}
	name := strings.ReplaceAll(row.name, " ", "-")
	cache := filepath.Join(t.TempDir(), "cache")
	busybox, err := os.ReadFile("/bin/busybox")
	check(t, err)
	check(t, os.WriteFile(filepath.Join(e.dir, "busybox"), busybox, 0o755))
	e.write(row.files, name)
	build := func(more []string, fails bool) {
		t.Helper()
		args := append([]string{"build", "--progress", "plain", "-o", "type=cacheonly"}, append(row.args, more...)...)
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], "CACHE", cache)
		}
		if out, err := e.dbuild(append(args, e.dir)...); (err != nil) != fails {
			t.Fatalf("build: %v\n%s", err, out)
		}
	}
	build(row.once, row.fails)
	e.write(row.change, name)
	if row.between != nil {
		row.between(e)
	}
	build(row.again, row.fails)

	out, err := exec.Command(s.bin, "--addr", s.addr(), "explain", "--format", "json").Output()
	check(t, err)
	var report explain.Report
	check(t, json.Unmarshal(out, &report))
	find := func(name string) explain.StepReport {
		t.Helper()
		for _, s := range report.Steps {
			if strings.Contains(s.Name, name) {
				return s
			}
		}
		t.Fatalf("there is no step %q:\n%s", name, out)
		return explain.StepReport{}
	}
	got := find(row.step)
	if len(got.Causes) == 0 {
		t.Fatalf("no cause for %s:\n%s", row.step, out)
	}
	if c := got.Causes[0]; c.Kind != row.kind || !regexp.MustCompile(row.says).MatchString(c.Text) {
		t.Errorf("%s: %s: %s\nwant %s: %s\n%s", got.Name, c.Kind, c.Text, row.kind, row.says, out)
	}
	if row.follower != "" {
		f := find(row.follower)
		if len(f.Causes) != 1 || f.Causes[0].Kind != explain.Follows || f.Causes[0].Subject != got.Name {
			t.Errorf("%s should follow from %s: %+v", f.Name, got.Name, f.Causes)
		}
	}
}
