package runc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/dbuild/dbuild/worker/runc/launcher"
)

// command is a runtime that is a command with runc's command line.
type command struct {
	e       *Executor
	path    string
	version string
}

func newCommand(e *Executor) (*command, error) {
	path, err := exec.LookPath(e.config.Runtime)
	if err != nil {
		return nil, fmt.Errorf("runtime: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	r := &command{e: e, path: path}
	out, err := r.command(context.Background(), "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("runtime %s: %w", path, err)
	}
	r.version, _, _ = strings.Cut(string(out), "\n")
	if runcIsVulnerable(r.version) {
		e.warnings = append(e.warnings, fmt.Sprintf("%s (%s) has known ways out of a container: use 1.3.6, 1.4.3 or newer", path, r.version))
	}
	return r, nil
}

var runcVersion = regexp.MustCompile(`^runc version (\d+)\.(\d+)\.(\d+)`)

// runcIsVulnerable says whether a version of runc is older than the ones that have all
// fixes known when this was written.
func runcIsVulnerable(version string) bool {
	m := runcVersion.FindStringSubmatch(version)
	if m == nil {
		return false
	}
	var v [3]int
	for i := range v {
		v[i], _ = strconv.Atoi(m[i+1])
	}
	switch {
	case v[0] != 1:
		return v[0] < 1
	case v[1] == 3:
		return v[2] < 6
	case v[1] == 4:
		return v[2] < 3
	}
	return v[1] < 3
}

func (r *command) name() string { return r.version }

func (r *command) root() string { return filepath.Join(r.e.config.Root, "runtime") }

// args are those of a call that concerns a container.
func (r *command) args(more ...string) []string {
	return append([]string{"--root", r.root()}, more...)
}

// command returns an execution of the runtime. A signal typed at the daemon's terminal does
// not reach it.
func (r *command) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, r.path, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = time.Second
	return cmd
}

func (r *command) run(ctx context.Context, c *container) error {
	var err error
	if c.spec.Linux.Seccomp, err = launcher.Profile(c.seccomp, c.spec); err != nil {
		return err
	}
	config, err := json.Marshal(c.spec)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.dir, "config.json"), config, 0o600); err != nil {
		return err
	}
	cmd := &invocation{r: r, dir: c.dir, id: c.id, std: c.std, watch: c.watch, verb: []string{"run", "--bundle", c.dir}, args: []string{c.id}}
	// Its end is awaited also if ctx is done: then it is killed through the runtime first.
	cmd.kill = func(p *os.Process, done <-chan struct{}) { r.kill(c, p, done) }
	code, err := cmd.run(ctx)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return errors.Join(err, r.remove(c))
	}
	if code == 0 {
		return nil
	}
	// The container's cgroup is gone with its counters.
	oom := code == 128+int(syscall.SIGKILL) && c.spec.Linux.Resources.Memory != nil
	return &ExitError{Code: code, OOMKilled: oom}
}

func (r *command) exec(ctx context.Context, c *container, x *execution) error {
	config, err := json.Marshal(x.process)
	if err != nil {
		return err
	}
	dir := filepath.Join(c.dir, "exec-"+x.id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("process %s: %w", x.id, err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "process.json")
	if err := os.WriteFile(file, config, 0o600); err != nil {
		return err
	}
	cmd := &invocation{r: r, dir: dir, id: c.id, std: x.std, watch: x.watch, verb: []string{"exec", "--process", file}, args: []string{c.id}}
	cmd.kill = func(p *os.Process, done <-chan struct{}) {
		x.watch.kill()
		select {
		case <-done:
		case <-time.After(killTimeout):
			_ = p.Kill()
		}
	}
	code, err := cmd.run(ctx)
	if err != nil || code == 0 {
		return err
	}
	return &ExitError{Code: code}
}

func (r *command) openStdio(p *Process) (*stdio, error) {
	if p.Terminal {
		return openTerminal(p.Stdin, p.Stdout)
	}
	return openStdio(p.Stdin, p.Stdout, p.Stderr)
}

// kill kills the container until the runtime has ended, and the runtime itself if that takes
// too long.
func (r *command) kill(c *container, p *os.Process, done <-chan struct{}) {
	limit := time.After(killTimeout)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		// It fails while there is no container yet, and when there is none any more.
		_ = r.command(ctx, r.args("kill", c.id, "KILL")...).Run()
		cancel()
		select {
		case <-done:
			return
		case <-limit:
			_ = p.Kill()
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// remove removes what a container may have left.
func (r *command) remove(c *container) error {
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	_ = r.command(ctx, r.args("delete", "--force", c.id)...).Run() // mostly there is nothing to delete
	return r.e.cgroups.killStep(ctx, c.spec.Linux.CgroupsPath)
}

// lastError returns the message of the last error in a runtime's log, empty if there is none.
func lastError(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	msg := ""
	for line := range bytes.Lines(text) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
			msg = entry.Msg
		}
	}
	return msg
}

func (r *command) warm()  {}
func (r *command) close() {}

// sweep removes the containers that the runtime knows of.
func (r *command) sweep(ctx context.Context) error {
	entries, err := os.ReadDir(r.root())
	if err != nil {
		return nil // nothing was ever run
	}
	for _, entry := range entries {
		_ = r.command(ctx, r.args("delete", "--force", entry.Name())...).Run() // its cgroup is gone already
	}
	return nil
}
