// Command bench runs the same builds with dbuild and with a stock buildkitd, in turn, and
// prints medians and ratios: wall time as the user sees it and CPU time of client, daemon
// and everything they started. `make bench` runs it, as root. It asserts nothing.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

func main() {
	dbuild := flag.String("dbuild", "bin/dbuild", "the dbuild program")
	tools := flag.String("tools", "bin/tools", "directory with buildctl and buildkitd")
	runs := flag.Int("runs", 5, "counted runs of each side")
	only := flag.String("only", "", "scenarios to run, separated by commas; all if empty")
	dir := flag.String("dir", "", "where states and contexts live; a new directory under /var/tmp if empty")
	flag.Parse()
	if err := run(*dbuild, *tools, *runs, *only, *dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(dbuild, tools string, runs int, only, dir string) (err error) {
	if dir == "" {
		if dir, err = os.MkdirTemp("/var/tmp", "dbuild-bench"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
	}
	b := &bench{dir: dir, tools: tools, runs: runs}
	if b.registry, err = startRegistry(filepath.Join(dir, "registry")); err != nil {
		return err
	}
	defer b.registry.stop()
	if b.other, err = startRegistry(filepath.Join(dir, "registry2")); err != nil {
		return err
	}
	defer b.other.stop()
	ours, err := startDbuild(dbuild, filepath.Join(dir, "dbuild"))
	if err != nil {
		return err
	}
	defer ours.stop()
	b.peers = []*peer{ours}
	if _, err := os.Stat(filepath.Join(tools, "buildkitd")); err == nil {
		theirs, err := startBuildkit(tools, filepath.Join(dir, "buildkit"))
		if err != nil {
			return err
		}
		defer theirs.stop()
		b.peers = append(b.peers, theirs)
	}
	if err := b.base(); err != nil {
		return err
	}
	fmt.Printf("%-13s %22s %22s %14s\n", "", "dbuild wall/cpu s", "buildkitd wall/cpu s", "ratio wall/cpu")
	var failed []string
	for _, s := range scenarios {
		if only != "" && !slices.Contains(strings.Split(only, ","), s.name) {
			continue
		}
		if err := b.scenario(s); err != nil {
			fmt.Printf("%-13s %v\n", s.name, err)
			failed = append(failed, s.name)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("not measured: %s", strings.Join(failed, ", "))
	}
	return nil
}

type bench struct {
	dir      string
	tools    string
	runs     int
	registry *registryServer
	other    *registryServer
	peers    []*peer
	seq      int
}

// unique returns a string that no other call returns: what is built with it is new.
func (b *bench) unique() string {
	b.seq++
	return fmt.Sprintf("%d-%d", os.Getpid(), b.seq)
}

// A sample is one run.
type sample struct{ wall, cpu time.Duration }

func (b *bench) scenario(s scenario) error {
	dir := filepath.Join(b.dir, "ctx-"+s.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if s.setup != nil {
		if err := s.setup(b, dir); err != nil {
			return fmt.Errorf("set-up: %w", err)
		}
	}
	samples := make([][]sample, len(b.peers))
	for i := -s.warm; i < b.runs; i++ {
		for k, p := range b.peers {
			if s.before != nil {
				if err := s.before(b, p, dir); err != nil {
					return fmt.Errorf("%s: %w", p.name, err)
				}
			}
			cpu := p.cpu()
			start := time.Now()
			err := s.run(b, p, dir)
			wall := time.Since(start)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			if i >= 0 {
				samples[k] = append(samples[k], sample{wall, p.cpu() - cpu})
			}
		}
	}
	ours := median(samples[0])
	if len(samples) == 1 {
		fmt.Printf("%-13s %10.3f / %9.3f\n", s.name, ours.wall.Seconds(), ours.cpu.Seconds())
		return nil
	}
	theirs := median(samples[1])
	fmt.Printf("%-13s %10.3f / %9.3f %10.3f / %9.3f %6.2f / %5.2f\n", s.name,
		ours.wall.Seconds(), ours.cpu.Seconds(), theirs.wall.Seconds(), theirs.cpu.Seconds(),
		theirs.wall.Seconds()/ours.wall.Seconds(), theirs.cpu.Seconds()/max(ours.cpu.Seconds(), 1e-3))
	return nil
}

func median(s []sample) sample {
	wall, cpu := make([]time.Duration, len(s)), make([]time.Duration, len(s))
	for i, x := range s {
		wall[i], cpu[i] = x.wall, x.cpu
	}
	slices.Sort(wall)
	slices.Sort(cpu)
	return sample{wall[len(wall)/2], cpu[len(cpu)/2]}
}
