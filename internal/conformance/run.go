package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A runner runs leaves against one daemon.
type runner struct {
	suite    *suite
	fixtures *fixtures
	daemon   string // dbuild or stock
	bin      string // directory with the buildkitd and buildctl under test
	out      string
	timeout  time.Duration
}

// run runs the leaves, some at once, prints what became of them and adds that to all.
func (r *runner) run(ctx context.Context, leaves []leaf, parallel int, all results) error {
	file := resultsFile(r.out, r.daemon)
	var mu sync.Mutex
	done := results{}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, l := range leaves {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			res, err := r.leaf(ctx, l)
			if err != nil {
				return fmt.Errorf("%s: %w", l.Name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			done[l], all[l] = res, res
			fmt.Printf("%4d/%d %-4s %6.1fs %s %s\n", i+1, len(leaves), res.Outcome, res.Took.Seconds(), l.Package, l.Name)
			if res.Outcome == failed && res.Why != "" {
				fmt.Println("             ", res.Why)
			}
			return all.write(file)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	done.summary(os.Stdout)
	fmt.Printf("results in %s, logs in %s\n", file, r.logs())
	return nil
}

func (r *runner) logs() string { return filepath.Join(r.out, "logs", r.daemon) }

// leaf runs one leaf in namespaces of its own.
func (r *runner) leaf(ctx context.Context, l leaf) (result, error) {
	tmp, err := os.MkdirTemp("", "conf")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(tmp)
	group, _ := memoryGroup(tmp)
	defer os.Remove(group) // made inside
	logFile := filepath.Join(r.logs(), strings.ReplaceAll(l.Package+"/"+l.Name, "/", "+")+".log")
	if err := os.MkdirAll(filepath.Dir(logFile), 0o755); err != nil {
		return result{}, err
	}
	log, err := os.Create(logFile)
	if err != nil {
		return result{}, err
	}
	defer log.Close()
	req, err := json.Marshal(place{
		Tmp: tmp, Fixtures: r.fixtures.dir, Bin: r.bin, Module: r.suite.module, CNI: l.needsCNI(), Timeout: r.timeout,
		Dir: filepath.Join(r.suite.module, l.Package), Test: r.suite.binary(l.Package), Pattern: l.pattern(),
	})
	if err != nil {
		return result{}, err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe", insideArg, string(req))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Pdeathsig:  unix.SIGKILL,
	}
	began := time.Now()
	// How the process ends says less than what it printed.
	_ = cmd.Run()
	if ctx.Err() != nil {
		return result{}, ctx.Err()
	}
	dt, err := os.ReadFile(logFile)
	if err != nil {
		return result{}, err
	}
	res := judge(l.Name, string(dt))
	res.Took = time.Since(began)
	return res, nil
}
