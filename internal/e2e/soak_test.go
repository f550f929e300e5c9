package e2e

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/tonistiigi/fsutil"
)

var soakBuilds = flag.Int("soak", 48, "how many builds TestSoak begins at once")

// TestSoak begins many builds at once, each with a connection and a session of its own:
// all succeed, those that wait say so, and the daemon is afterwards as it was before.
func TestSoak(t *testing.T) {
	// Sockets need short paths.
	dir, err := os.MkdirTemp("", "dbsoak")
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	work := filepath.Join(dir, "context")
	check(t, os.Mkdir(work, 0o755))
	bb, err := os.ReadFile("/bin/busybox")
	check(t, err)
	check(t, os.WriteFile(filepath.Join(work, "busybox"), bb, 0o755))
	check(t, os.WriteFile(filepath.Join(work, "Dockerfile"), []byte(`FROM scratch
COPY busybox /bin/sh
ARG N
RUN echo $N > /n
RUN echo again $N > /m
`), 0o644))
	d := startSoaked(t, dir)

	for i := range 2 {
		_, err := d.build(t.Context(), work, fmt.Sprint("warm", i))
		check(t, err)
	}
	var last usage
	before := d.settled(t, func(u usage) bool {
		same := u.fds == last.fds && u.goroutines == last.goroutines
		last = u
		return same
	})
	t.Logf("before: %v", before)

	started := time.Now()
	var waited, failed atomic.Int64
	var builds sync.WaitGroup
	for i := range *soakBuilds {
		builds.Go(func() {
			w, err := d.build(t.Context(), work, fmt.Sprint(i))
			if w {
				waited.Add(1)
			}
			if err != nil && failed.Add(1) <= 10 {
				t.Errorf("build %d: %v", i, err)
			}
		})
	}
	builds.Wait()
	t.Logf("%d builds took %v: %d failed, %d said that they wait", *soakBuilds, time.Since(started).Round(100*time.Millisecond), failed.Load(), waited.Load())
	if waited.Load() == 0 {
		t.Error("no build said that it waits")
	}
	after := d.settled(t, func(u usage) bool {
		return u.fds <= before.fds && u.goroutines <= before.goroutines && u.memory <= before.memory+64
	})
	t.Logf("after: %v", after)
	if after.fds > before.fds || after.goroutines > before.goroutines {
		t.Errorf("the daemon holds more than before the builds: %v, it was %v", after, before)
	}
	if after.memory > before.memory+64 {
		t.Errorf("the daemon grew by %.1f MB", after.memory-before.memory)
	}
}

// soaked is the daemon of TestSoak.
type soaked struct {
	addr, debug string
	pid         int
}

func startSoaked(t *testing.T, dir string) *soaked {
	debug, err := freeAddr()
	check(t, err)
	d := &soaked{addr: "unix://" + filepath.Join(dir, "s"), debug: debug}
	bin := os.Getenv("DBUILD_BIN")
	if bin == "" {
		t.Fatal("DBUILD_BIN names what is tested: run `make soak`")
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	check(t, err)
	cmd := exec.Command(bin, "daemon", "--root", filepath.Join(dir, "state"), "--addr", d.addr, "--debugaddr", d.debug)
	cmd.Stdout, cmd.Stderr = log, log
	check(t, cmd.Start())
	d.pid = cmd.Process.Pid
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		log.Close()
	})
	if !eventually(15*time.Second, func() bool { return exec.Command(bin, "--addr", d.addr, "debug", "workers").Run() == nil }) {
		b, _ := os.ReadFile(log.Name())
		t.Fatalf("the daemon does not answer:\n%s", b)
	}
	return d
}

// build builds dir as a client of its own, and says whether it had to wait for others.
func (d *soaked) build(ctx context.Context, dir, n string) (waited bool, err error) {
	c, err := client.New(ctx, d.addr)
	if err != nil {
		return false, err
	}
	defer c.Close()
	fs, err := fsutil.NewFS(dir)
	if err != nil {
		return false, err
	}
	status := make(chan *client.SolveStatus)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for s := range status {
			for _, v := range s.Vertexes {
				waited = waited || strings.HasPrefix(v.Name, "waiting for other builds")
			}
		}
	}()
	_, err = c.Solve(ctx, nil, client.SolveOpt{
		Frontend:      "dockerfile.v0",
		FrontendAttrs: map[string]string{"build-arg:N": n},
		LocalMounts:   map[string]fsutil.FS{"context": fs, "dockerfile": fs},
	}, status)
	<-done
	return waited, err
}

// usage is what the daemon takes. Its memory is what only its end gives back; the program
// and the database, which are mapped files, count among what is resident.
type usage struct {
	memory, resident float64 // MB
	goroutines, fds  int
}

func (u usage) String() string {
	return fmt.Sprintf("%.1f MB (with mapped files %.1f MB), %d goroutines, %d file descriptors", u.memory, u.resident, u.goroutines, u.fds)
}

// settled is what the daemon takes when ok holds, or after 45 s: what is kept for late
// questions is gone by then.
func (d *soaked) settled(t *testing.T, ok func(usage) bool) (u usage) {
	eventually(45*time.Second, func() bool {
		u = d.usage(t)
		return ok(u)
	})
	return u
}

func (d *soaked) usage(t *testing.T) (u usage) {
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.pid))
	check(t, err)
	u.fds = len(fds)
	_, err = d.get("/debug/gc", "")
	check(t, err)
	n, err := d.get("/metrics", "go_goroutines ")
	check(t, err)
	_, err = fmt.Sscan(n, &u.goroutines)
	check(t, err)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.pid))
	check(t, err)
	for name, mb := range map[string]*float64{"RssAnon:": &u.memory, "VmRSS:": &u.resident} {
		_, kb, _ := strings.Cut(string(b), name)
		_, err = fmt.Sscan(kb, mb)
		check(t, err)
		*mb /= 1024
	}
	return u
}

// get asks the debug address and returns the rest of the first line that begins so.
func (d *soaked) get(path, line string) (string, error) {
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + d.debug + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), line); ok {
			return rest, nil
		}
	}
	if line == "" {
		return "", nil
	}
	return "", errors.New(path + " does not tell " + line)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
