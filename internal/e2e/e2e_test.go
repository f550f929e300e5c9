package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestScripts(t *testing.T) {
	bin, tools := programs(t)
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("..", "..", "testdata", "script"),
		Setup: func(env *testscript.Env) error {
			_, err := setUp(env, bin, tools)
			return err
		},
		Cmds: commands,
	})
}

// programs returns what is tested and the directory of the programs to test it with.
func programs(t *testing.T) (bin, tools string) {
	bin, tools = os.Getenv("DBUILD_BIN"), os.Getenv("DBUILD_TOOLS")
	if bin == "" || tools == "" {
		t.Fatal("DBUILD_BIN and DBUILD_TOOLS name what is tested: run `make e2e`")
	}
	return bin, tools
}

// setUp makes the surroundings of one script.
func setUp(env *testscript.Env, bin, tools string) (*state, error) {
	s, err := newState(bin)
	if err != nil {
		return nil, err
	}
	env.Values[stateKey{}] = s
	env.Values[digestsKey{}] = map[string]string{}
	env.Defer(s.close)
	env.Setenv("TOOLS", tools)
	env.Setenv("STATE", s.root())
	env.Setenv("DBUILD_HOST", s.addr())
	env.Setenv("PATH", filepath.Dir(bin)+":"+tools+":"+os.Getenv("PATH"))
	env.Setenv("HOME", s.home())
	env.Setenv("BUILDKIT_PROGRESS", "plain")
	return s, nil
}

// commands are what scripts can do beside testscript's own commands.
var commands = map[string]func(*testscript.TestScript, bool, []string){
	"daemon":      cmdDaemon,
	"kill-daemon": cmdKillDaemon,
	"stop-daemon": cmdStopDaemon,
	"base":        cmdBase,
	"registry":    cmdRegistry,
	"layer-gets":  cmdLayerGets,
	"traffic":     cmdTraffic,
	"break":       cmdBreak,
	"lose-layers": cmdLoseLayers,
	"only":        cmdOnly,
	"tokens":      cmdTokens,
	"expire":      cmdExpire,
	"logout":      cmdLogout,
	"state-size":  cmdStateSize,
	"status":      cmdStatus,
	"wait-for":    cmdWaitFor,
	"same":        cmdSame,
	"flip":        cmdFlip,
	"interrupt":   cmdInterrupt,
	"smalldisk":   cmdSmallDisk,
	"build":       cmdBuild,
	"image":       cmdImage,
	"server":      cmdServer,
	"requests":    cmdRequests,
	"git":         cmdGit,

	"dockerd":    cmdDockerd,
	"containerd": cmdContainerd,

	"buildkitd":        cmdBuildkitd,
	"frontend-program": cmdFrontendProgram,
	"frontend-build":   cmdFrontendBuild,
	"frontend-same":    cmdFrontendSame,
	"interop":          cmdInterop,
	"cachestore":       cmdCacheStore,
}

type stateKey struct{}

// state is what one script has started.
type state struct {
	dir, bin string
	daemon   *exec.Cmd
	log      *os.File
	reg      *registry // REG
	// registries are all that the script has started, by the variable with their address.
	registries map[string]*registry
	stores     map[string]*cacheStore // by kind
	sizes      map[string]int64       // of the state directory, by the script's names
	server     *server
	mounts     []string
}

func newState(bin string) (*state, error) {
	// Sockets need short paths.
	dir, err := os.MkdirTemp("", "dbe2e")
	if err != nil {
		return nil, err
	}
	s := &state{dir: dir, bin: bin, registries: map[string]*registry{}, stores: map[string]*cacheStore{}, sizes: map[string]int64{}}
	return s, os.Mkdir(s.home(), 0o700)
}

func (s *state) root() string { return filepath.Join(s.dir, "state") }
func (s *state) home() string { return filepath.Join(s.dir, "home") }
func (s *state) addr() string { return "unix://" + filepath.Join(s.dir, "d.sock") }

func (s *state) close() {
	if s.daemon != nil {
		_ = s.stop(syscall.SIGTERM)
	}
	for _, r := range s.registries {
		r.close()
	}
	if s.server != nil {
		s.server.Close()
	}
	for _, m := range s.mounts {
		_ = syscall.Unmount(m, syscall.MNT_DETACH)
	}
	os.RemoveAll(s.dir)
}

// start starts a daemon, with more flags if given, and waits until it answers.
func (s *state) start(flags ...string) error {
	log, err := os.OpenFile(filepath.Join(s.dir, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	s.log = log
	s.daemon = exec.Command(s.bin, append([]string{"daemon", "--root", s.root(), "--addr", s.addr()}, flags...)...)
	s.daemon.Stdout, s.daemon.Stderr = log, log
	s.daemon.Env = append(os.Environ(), "HOME="+s.home())
	if err := s.daemon.Start(); err != nil {
		s.daemon = nil
		return err
	}
	ok := eventually(15*time.Second, func() bool {
		return exec.Command(s.bin, "--addr", s.addr(), "debug", "workers").Run() == nil
	})
	if !ok {
		b, _ := os.ReadFile(log.Name())
		return fmt.Errorf("the daemon does not answer:\n%s", b)
	}
	return nil
}

func (s *state) stop(sig syscall.Signal) error {
	d := s.daemon
	s.daemon = nil
	_ = d.Process.Signal(sig)
	err := d.Wait()
	s.log.Close()
	return err
}

func get(ts *testscript.TestScript) *state { return ts.Value(stateKey{}).(*state) }

// cmdDaemon starts a daemon of the script's own, with more flags if given.
func cmdDaemon(ts *testscript.TestScript, neg bool, args []string) {
	s := get(ts)
	if s.daemon != nil || neg {
		ts.Fatalf("usage: daemon [FLAG ...], once")
	}
	ts.Check(s.start(args...))
	ts.Setenv("DBUILD_HOST", s.addr())
}

func cmdKillDaemon(ts *testscript.TestScript, _ bool, _ []string) {
	_ = get(ts).stop(syscall.SIGKILL)
}

func cmdStopDaemon(ts *testscript.TestScript, _ bool, _ []string) {
	ts.Check(get(ts).stop(syscall.SIGTERM))
}

// cmdBase makes the image "base", or of another name.
func cmdBase(ts *testscript.TestScript, _ bool, args []string) {
	dir := filepath.Join(get(ts).dir, "base")
	ts.Check(writeBase(dir))
	name := "base"
	if len(args) > 0 {
		name = args[0]
	}
	ts.Check(ts.Exec("dbuild", "-q", "-t", name, dir))
}

// writeBase makes a build context of Debian's static busybox.
func writeBase(dir string) error {
	bb, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "busybox"), bb, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(`FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /etc /tmp /root && printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n' > /etc/passwd && printf 'root:x:0:\nusers:x:1000:\n' > /etc/group
`), 0o644)
}

// cmdStatus runs a command and checks its exit status: status 2 dbuild --nope
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || neg {
		ts.Fatalf("usage: status CODE COMMAND [ARG ...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s ended with status %d, want %d", args[1], got, want)
	}
}

// cmdWaitFor waits until a file has content, or a process that matches runs, or with !
// none does: wait-for file PATH; ! wait-for process PATTERN
func cmdWaitFor(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: wait-for file|process WHAT")
	}
	check := func() bool {
		switch args[0] {
		case "file":
			st, err := os.Stat(ts.MkAbs(args[1]))
			return err == nil && st.Size() > 0
		case "process":
			return exec.Command("pgrep", "-f", args[1]).Run() == nil
		}
		ts.Fatalf("cannot wait for a %s", args[0])
		return false
	}
	if !eventually(20*time.Second, func() bool { return check() != neg }) {
		ts.Fatalf("waited for %s %s (negated: %v) in vain", args[0], args[1], neg)
	}
}

// cmdSame compares two files byte by byte.
func cmdSame(ts *testscript.TestScript, neg bool, args []string) {
	if ts.ReadFile(args[0]) == ts.ReadFile(args[1]) == neg {
		ts.Fatalf("%s and %s: equal is %v", args[0], args[1], !neg)
	}
}

// cmdFlip fills a file with another letter without changing its size or times:
// flip FILE [LETTER]
func cmdFlip(ts *testscript.TestScript, _ bool, args []string) {
	path, letter := ts.MkAbs(args[0]), "x"
	if len(args) > 1 {
		letter = args[1]
	}
	st, err := os.Stat(path)
	ts.Check(err)
	ts.Check(os.WriteFile(path, []byte(strings.Repeat(letter, int(st.Size()))), st.Mode()))
	ts.Check(os.Chtimes(path, st.ModTime(), st.ModTime()))
}

// cmdInterrupt runs a command, waits for a process that matches and sends the command
// SIGINT; it then has to end within 5 s: interrupt PATTERN COMMAND [ARG ...]
func cmdInterrupt(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = append(os.Environ(), "DBUILD_HOST="+ts.Getenv("DBUILD_HOST"), "PATH="+ts.Getenv("PATH"), "HOME="+ts.Getenv("HOME"))
	if path, err := exec.LookPath(filepath.Join(filepath.Dir(get(ts).bin), args[1])); err == nil {
		cmd.Path, cmd.Err = path, nil
	}
	ts.Check(cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	if !eventually(20*time.Second, func() bool { return exec.Command("pgrep", "-f", args[0]).Run() == nil }) {
		_ = cmd.Process.Kill()
		<-done
		ts.Fatalf("no process matches %q", args[0])
	}
	ts.Check(cmd.Process.Signal(syscall.SIGINT))
	select {
	case err := <-done:
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 130 {
			ts.Fatalf("interrupted, but ended with %v, want status 130", err)
		}
	case <-time.After(5 * time.Second):
		_ = cmd.Process.Kill()
		<-done
		ts.Fatalf("still running 5 s after it was interrupted")
	}
}

// cmdSmallDisk puts the state on a disk of so many megabytes and makes a file "big" that
// does not fit: smalldisk MEGABYTES
func cmdSmallDisk(ts *testscript.TestScript, _ bool, args []string) {
	size, err := strconv.ParseInt(args[0], 10, 32)
	ts.Check(err)
	dir := ts.Getenv("STATE")
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", size)))
	get(ts).mounts = append(get(ts).mounts, dir)
	f, err := os.Create(ts.MkAbs("big"))
	ts.Check(err)
	defer f.Close()
	ts.Check(f.Truncate((size + 8) << 20))
}

// eventually polls cond until it holds or the time is up.
func eventually(d time.Duration, cond func() bool) bool {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(d)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			return false
		}
	}
	return true
}

// cmdRegistry starts a docker-registry and sets REG, or another variable, to its host:port:
// registry [NAME]
func cmdRegistry(ts *testscript.TestScript, _ bool, args []string) {
	s, name := get(ts), "REG"
	if len(args) > 0 {
		name = args[0]
	}
	r, err := newRegistry(filepath.Join(s.dir, "registry-"+name))
	ts.Check(err)
	s.registries[name] = r
	if name == "REG" {
		s.reg = r
	}
	ts.Setenv(name, r.addr)
}

// cmdLayerGets checks how many layers were read from the registry since the last call:
// layer-gets COUNT
func cmdLayerGets(ts *testscript.TestScript, neg bool, args []string) {
	got := get(ts).reg.takeGets()
	if (fmt.Sprint(len(got)) == args[0]) == neg {
		ts.Fatalf("%d layers were read, want %s:\n%s", len(got), args[0], strings.Join(got, "\n"))
	}
}
