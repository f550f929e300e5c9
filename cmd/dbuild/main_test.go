package main

import (
	"bufio"
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/grpc"
)

// The test program is also what it starts: a daemon, or the command itself.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "daemon" {
		os.Exit(standInDaemon(os.Args[1:]))
	}
	if os.Getenv("TEST_RUN_COMMAND") != "" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

// standInDaemon is started like a daemon, and answers like one that does nothing.
func standInDaemon(args []string) int {
	addr := args[slices.Index(args, "--addr")+1]
	root := args[slices.Index(args, "--root")+1]
	if !slices.Contains(args, "--idle-timeout") {
		return 3
	}
	pid := strconv.Itoa(os.Getpid())
	if err := os.WriteFile(filepath.Join(root, "pid."+pid), []byte(pid), 0o600); err != nil {
		return 4
	}
	sock := strings.TrimPrefix(addr, "unix://")
	if err := os.MkdirAll(filepath.Dir(sock), 0o700); err != nil {
		return 5
	}
	_ = os.Remove(sock)
	l, err := net.Listen("unix", sock)
	if err != nil {
		return 6
	}
	srv := grpc.NewServer()
	controlapi.RegisterControlServer(srv, &fakeDaemon{pkg: daemonPackage})
	_ = srv.Serve(l)
	return 0
}

func TestADaemonIsStartedOnce(t *testing.T) {
	dir := t.TempDir()
	at := places{state: filepath.Join(dir, "state"), socket: filepath.Join(dir, "run", "s")}
	t.Cleanup(func() {
		for _, pid := range daemonPids(t, at) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			var stdout, stderr bytes.Buffer
			a := &app{stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, lookup: env(nil), at: &at}
			if code := a.execute(t.Context(), []string{"debug", "workers"}); code != 0 || !strings.Contains(stdout.String(), "w1") {
				t.Errorf("exit %d, %q, %q", code, stdout.String(), stderr.String())
			}
			if !strings.Contains(stderr.String(), "the daemon is version v9") {
				t.Errorf("the other version is not mentioned: %q", stderr.String())
			}
		})
	}
	wg.Wait()
	if pids := daemonPids(t, at); len(pids) != 1 {
		t.Errorf("daemons %v", pids)
	}
}

func daemonPids(t *testing.T, at places) []int {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(at.state, "pid.*"))
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, f := range files {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Ext(f), "."))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, pid)
	}
	return out
}

// hangs is a daemon whose builds do not end even when they are told to.
type hangs struct {
	fakeDaemon
	started chan struct{}
}

func (d *hangs) Session(srv controlapi.Control_SessionServer) error {
	<-srv.Context().Done()
	return nil
}

func (d *hangs) Status(_ *controlapi.StatusRequest, srv controlapi.Control_StatusServer) error {
	close(d.started)
	<-srv.Context().Done()
	return nil
}

func TestSignals(t *testing.T) {
	for _, tc := range []struct {
		name    string
		signals int
	}{{"first cancels", 1}, {"second kills", 2}} {
		t.Run(tc.name, func(t *testing.T) {
			dir := inContext(t)
			sock := filepath.Join(t.TempDir(), "s")
			l, err := net.Listen("unix", sock)
			if err != nil {
				t.Fatal(err)
			}
			d := &fakeDaemon{block: true, solved: nil}
			d.solved = make(chan *controlapi.SolveRequest, 1)
			srv := grpc.NewServer()
			var control controlapi.ControlServer = d
			if tc.signals == 2 {
				h := &hangs{fakeDaemon: fakeDaemon{block: true}, started: make(chan struct{})}
				h.solved = d.solved
				control = h
			}
			controlapi.RegisterControlServer(srv, control)
			ended := make(chan error, 1)
			go func() { ended <- srv.Serve(l) }()
			defer func() { srv.Stop(); <-ended }()

			cmd := exec.Command(os.Args[0], "-t", "app", "--progress=none", dir)
			cmd.Env = append(os.Environ(), "TEST_RUN_COMMAND=1", "DBUILD_HOST=unix://"+sock)
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-d.solved
			lines := bufio.NewScanner(stderr)
			for i := range tc.signals {
				if err := cmd.Process.Signal(os.Interrupt); err != nil {
					t.Fatal(err)
				}
				if i == 0 && (!lines.Scan() || !strings.Contains(lines.Text(), "once more")) {
					t.Errorf("said %q", lines.Text())
				}
			}
			for lines.Scan() {
			}
			_ = cmd.Wait()
			if code := cmd.ProcessState.ExitCode(); code != exitCanceled {
				t.Errorf("exit %d", code)
			}
		})
	}
}

// Signals that come together are one.
func TestSignalsThatComeTogether(t *testing.T) {
	var stderr bytes.Buffer
	ctx, stop := (&app{stderr: &stderr}).untilSignal()
	defer stop()
	for range 2 {
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	<-ctx.Done() // the test program lives
}

func TestStopWithoutASignal(t *testing.T) {
	var stderr bytes.Buffer
	ctx, stop := (&app{stderr: &stderr}).untilSignal()
	stop()
	if ctx.Err() == nil || stderr.Len() > 0 {
		t.Errorf("context %v, said %q", ctx.Err(), stderr.String())
	}
}
