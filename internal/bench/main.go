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
	image := flag.Int64("image", 160, "size of the image of gsame, gother and hgzip as it is pushed, in MB")
	layer := flag.Int64("layer", 256, "size of the layer of e1g, in MB")
	flag.Parse()
	b := &bench{dir: *dir, tools: *tools, runs: *runs, image: *image, layer: *layer}
	if err := b.run(*dbuild, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(dbuild, only string) (err error) {
	if b.dir == "" {
		if b.dir, err = os.MkdirTemp("/var/tmp", "dbuild-bench"); err != nil {
			return err
		}
		defer os.RemoveAll(b.dir)
	}
	dir, tools := b.dir, b.tools
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
		if !s.among(only) {
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
	image    int64 // MB
	layer    int64 // MB
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
	notes := make([]string, len(b.peers))
	var limits []sample
	for i := -s.warm; i < b.runs; i++ {
		for k, p := range b.peers {
			one, note, err := b.once(s, p, dir)
			if err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
			notes[k] = note
			if i >= 0 {
				samples[k] = append(samples[k], one)
			}
		}
		if s.limit != nil && i >= 0 {
			wall, err := s.limit(b)
			if err != nil {
				return fmt.Errorf("limit: %w", err)
			}
			limits = append(limits, sample{wall: wall})
		}
	}
	b.print(s.name, samples)
	if len(limits) > 0 {
		fmt.Printf("%13s limit: %.3f s\n", "", median(limits).wall.Seconds())
	}
	for k, note := range notes {
		if note != "" {
			fmt.Printf("%13s %s: %s\n", "", b.peers[k].name, note)
		}
	}
	return nil
}

// once runs a scenario with one side, and returns what was seen from outside.
func (b *bench) once(s scenario, p *peer, dir string) (_ sample, note string, err error) {
	if s.before != nil {
		if err := s.before(b, p, dir); err != nil {
			return sample{}, "", err
		}
	}
	seen := func() (string, error) { return "", nil }
	if s.watch != nil {
		if seen, err = s.watch(b, p); err != nil {
			return sample{}, "", err
		}
	}
	cpu := p.cpu()
	start := time.Now()
	err = s.run(b, p, dir)
	one := sample{time.Since(start), p.cpu() - cpu}
	if err == nil {
		note, err = seen()
	}
	return one, note, err
}

func (b *bench) print(name string, samples [][]sample) {
	ours := median(samples[0])
	if len(samples) == 1 {
		fmt.Printf("%-13s %10.3f / %9.3f\n", name, ours.wall.Seconds(), ours.cpu.Seconds())
		return
	}
	theirs := median(samples[1])
	fmt.Printf("%-13s %10.3f / %9.3f %10.3f / %9.3f %6.2f / %5.2f\n", name,
		ours.wall.Seconds(), ours.cpu.Seconds(), theirs.wall.Seconds(), theirs.cpu.Seconds(),
		theirs.wall.Seconds()/ours.wall.Seconds(), theirs.cpu.Seconds()/max(ours.cpu.Seconds(), 1e-3))
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
