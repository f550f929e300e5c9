package main

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A peer is a daemon and the client that drives it.
type peer struct {
	name   string
	addr   string
	root   string
	daemon *exec.Cmd
	client string        // program
	spent  time.Duration // CPU of clients so far
	ours   bool
	pushed string // repository of the last image
}

func startDbuild(bin, dir string) (*peer, error) {
	p := &peer{name: "dbuild", client: bin, addr: "unix://" + filepath.Join(dir, "d.sock"), root: filepath.Join(dir, "state"), ours: true}
	return p, p.start(bin, "daemon", "--root", p.root, "--addr", p.addr)
}

func startBuildkit(tools, dir string) (*peer, error) {
	p := &peer{name: "buildkitd", client: filepath.Join(tools, "buildctl"), addr: "unix://" + filepath.Join(dir, "d.sock"), root: filepath.Join(dir, "state")}
	return p, p.start(filepath.Join(tools, "buildkitd"), "--root", p.root, "--addr", p.addr, "--oci-worker-gc=false")
}

func (p *peer) start(args ...string) error {
	if err := os.MkdirAll(filepath.Dir(p.root), 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(filepath.Dir(p.root), "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	p.daemon = exec.Command(args[0], args[1:]...)
	p.daemon.Stdout, p.daemon.Stderr = log, log
	if err := p.daemon.Start(); err != nil {
		return err
	}
	for range 300 {
		if exec.Command(p.client, "--addr", p.addr, "debug", "workers").Run() == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	b, _ := os.ReadFile(log.Name())
	return fmt.Errorf("%s does not answer:\n%s", p.name, b)
}

func (p *peer) stop() {
	_ = p.daemon.Process.Signal(os.Interrupt)
	_ = p.daemon.Wait()
}

// cpu is the time spent so far by clients, and by the daemon with all its descendants.
func (p *peer) cpu() time.Duration {
	return p.spent + treeCPU(p.daemon.Process.Pid)
}

// treeCPU adds up user and system time of a process, of those that descend from it, and
// of their children that have ended.
func treeCPU(root int) time.Duration {
	children := map[int][]int{}
	spent := map[int]time.Duration{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range stats {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		field := strings.Fields(rest)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		parent, _ := strconv.Atoi(field[1])
		children[parent] = append(children[parent], pid)
		for _, i := range []int{11, 12, 13, 14} { // utime, stime, cutime, cstime
			ticks, _ := strconv.ParseInt(field[i], 10, 64)
			spent[pid] += time.Duration(ticks) * 10 * time.Millisecond
		}
	}
	total := time.Duration(0)
	for todo := []int{root}; len(todo) > 0; {
		pid := todo[0]
		todo = append(todo[1:], children[pid]...)
		total += spent[pid]
	}
	return total
}

func (p *peer) exec(stdin []byte, args ...string) error {
	cmd := exec.Command(p.client, append([]string{"--addr", p.addr}, args...)...)
	var out bytes.Buffer
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if cmd.ProcessState != nil {
		p.spent += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	if err != nil {
		tail := out.String()
		return fmt.Errorf("%v: %w\n%s", args, err, tail[max(0, len(tail)-2000):])
	}
	return nil
}

// build builds dir with build args, to an output in buildctl's notation ("" for none).
func (p *peer) build(dir, output string, args ...string) error {
	var cmd []string
	if p.ours {
		cmd = []string{"build", "--progress", "plain"}
		if output != "" {
			cmd = append(cmd, "-o", output)
		} else {
			cmd = append(cmd, "-o", "type=cacheonly")
		}
		for _, a := range args {
			cmd = append(cmd, "--build-arg", a)
		}
		return p.exec(nil, append(cmd, dir)...)
	}
	cmd = []string{"build", "--progress", "plain", "--frontend", "dockerfile.v0", "--local", "context=" + dir, "--local", "dockerfile=" + dir}
	if output != "" {
		cmd = append(cmd, "--output", output)
	}
	for _, a := range args {
		cmd = append(cmd, "--opt", "build-arg:"+a)
	}
	return p.exec(nil, cmd...)
}

func (p *peer) prune() error {
	if p.ours {
		return p.exec(nil, "prune", "--all", "-f")
	}
	return p.exec(nil, "prune", "--all")
}

// stateSize is what the daemon's state takes on the disk, in bytes.
func (p *peer) stateSize() (int64, error) {
	total := int64(0)
	err := filepath.WalkDir(p.root, func(_ string, e os.DirEntry, err error) error {
		if err == nil {
			var fi os.FileInfo
			if fi, err = e.Info(); err == nil {
				total += fi.Sys().(*syscall.Stat_t).Blocks * 512
			}
		}
		if os.IsNotExist(err) {
			return nil // the daemon is cleaning up
		}
		return err
	})
	return total, err
}

// registryServer is a docker-registry of our own.
type registryServer struct {
	addr   string
	cmd    *exec.Cmd
	access string // file with a line for each request
}

func startRegistry(dir string) (*registryServer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &registryServer{addr: "localhost:" + strconv.Itoa(l.Addr().(*net.TCPAddr).Port)}
	l.Close()
	conf := filepath.Join(dir, "config.yml")
	// Without "accesslog: {disabled: true}" it prints a line for each request.
	yml := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: %s}\n", filepath.Join(dir, "data"), r.addr)
	if err := os.WriteFile(conf, []byte(yml), 0o644); err != nil {
		return nil, err
	}
	r.access = filepath.Join(dir, "access")
	log, err := os.Create(r.access)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	r.cmd = exec.Command("docker-registry", "serve", conf)
	r.cmd.Stdout = log
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	for range 300 {
		resp, err := http.Get("http://" + r.addr + "/v2/")
		if err == nil {
			resp.Body.Close()
			return r, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil, fmt.Errorf("docker-registry does not answer on %s", r.addr)
}

func (r *registryServer) stop() {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
}
