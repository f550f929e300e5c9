package runc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

// cgroups knows where the cgroups of steps are. Each step has one of its own name in a
// directory of this executor, which is in the parent that the step asks for. The list of
// parents is kept in a file, written before the first use of each.
type cgroups struct {
	name    string // of the executor's directories
	parent  string // default
	unified bool   // version 2 only
	list    string // file with the parents in use
	mu      *sync.Mutex
	known   map[string]bool // under mu: parents in the file
}

func newCgroups(root, parent string) cgroups {
	sum := sha256.Sum256([]byte(root))
	c := cgroups{
		name:  "dbuild-" + hex.EncodeToString(sum[:4]),
		list:  filepath.Join(root, "cgroups"),
		mu:    new(sync.Mutex),
		known: make(map[string]bool),
	}
	c.parent = cleanParent(parent)
	var st unix.Statfs_t
	c.unified = unix.Statfs(cgroupRoot, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
	return c
}

// cleanParent returns a path from the root of the hierarchy. The name of a systemd slice
// stands for the place where systemd puts it: a-b.slice is in a.slice.
func cleanParent(parent string) string {
	parent = strings.TrimSuffix(parent, ":")
	if strings.HasSuffix(parent, ".slice") && !strings.Contains(parent, "/") {
		var dir string
		parts := strings.Split(strings.TrimSuffix(parent, ".slice"), "-")
		for i := range parts {
			dir = path.Join(dir, strings.Join(parts[:i+1], "-")+".slice")
		}
		parent = dir
	}
	return path.Join("/", parent)
}

// path returns the cgroup for a step.
func (c *cgroups) path(parent, id string) (string, error) {
	if parent == "" {
		parent = c.parent
	}
	parent = cleanParent(parent)
	if strings.ContainsAny(parent, "\n\x00") {
		return "", fmt.Errorf("cgroup parent %q: not a path", parent)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known[parent] {
		file, err := os.OpenFile(c.list, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return "", err
		}
		_, err = file.WriteString(parent + "\n")
		if err := errors.Join(err, file.Close()); err != nil {
			return "", err
		}
		c.known[parent] = true
	}
	return path.Join(parent, c.name, id), nil
}

// mount says whether a step is shown its cgroups. It always is with version 2. Version 1
// takes a mount for each controller, some milliseconds, so that only steps get them that
// have limits to find there.
func (c *cgroups) mount(r *pb.LinuxResources) bool { return c.unified || r != nil }

// dirs returns the directories of a cgroup in all hierarchies.
func (c *cgroups) dirs(name string) []string {
	if c.unified {
		return []string{filepath.Join(cgroupRoot, name)}
	}
	dirs, _ := filepath.Glob(filepath.Join(cgroupRoot, "*")) // the pattern is good
	for i := range dirs {
		dirs[i] = filepath.Join(dirs[i], name)
	}
	return dirs
}

// killStep kills the processes in a step's cgroup and removes it.
func (c *cgroups) killStep(ctx context.Context, name string) error {
	return killTrees(ctx, c.dirs(name))
}

// kill kills everything in the executor's cgroups, of this process or an earlier one, and
// removes them.
func (c *cgroups) kill(ctx context.Context) error {
	var dirs []string
	for _, parent := range c.parents() {
		dirs = append(dirs, c.dirs(path.Join(parent, c.name))...)
	}
	if err := killTrees(ctx, dirs); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.known)
	if err := os.Remove(c.list); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// parents are all that were ever used.
func (c *cgroups) parents() []string {
	list := []string{c.parent}
	text, _ := os.ReadFile(c.list) // if there is none nothing was used
	for line := range strings.Lines(string(text)) {
		// A line without an end was never used either.
		if parent, ok := strings.CutSuffix(line, "\n"); ok && !slices.Contains(list, parent) {
			list = append(list, parent)
		}
	}
	return list
}

// killTrees kills all processes in the given cgroups and below until there are none, and
// removes the cgroups.
func killTrees(ctx context.Context, roots []string) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		var err error
		for _, root := range roots {
			err = errors.Join(err, killTree(root))
		}
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("remove cgroups: %w", err)
		case <-time.After(wait):
		}
	}
}

// killTree sends SIGKILL to all processes and tries to remove the directories.
func killTree(root string) error {
	dirs, err := tree(root)
	if err != nil {
		return err
	}
	for _, dir := range slices.Backward(dirs) {
		pids, err := processes(dir)
		if err != nil {
			return err
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		// A frozen cgroup's processes do not die.
		_ = os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0)
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s: %w", dir, err)
		}
	}
	return nil
}

// tree lists a directory and those below, parents first. There may be none.
func tree(root string) (dirs []string, err error) {
	err = filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && entry.IsDir() {
			dirs = append(dirs, name)
		}
		return err
	})
	return dirs, err
}

// processes are those in a cgroup itself.
func processes(dir string) (pids []int, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		// 0 is a process that this namespace does not see.
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil && pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// signalStep sends a signal to the processes in a step's cgroup, each once, as far as they
// can be found.
func (c *cgroups) signalStep(name string, sig unix.Signal) {
	seen := map[int]bool{}
	for _, root := range c.dirs(name) {
		dirs, _ := tree(root)
		for _, dir := range dirs {
			pids, _ := processes(dir)
			for _, pid := range pids {
				if !seen[pid] {
					seen[pid] = true
					_ = unix.Kill(pid, sig)
				}
			}
		}
	}
}
