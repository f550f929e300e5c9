package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if filepath.Base(os.Args[0]) == hellofsName && len(os.Args) == 2 {
		if err := hellofs(os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, "hellofs:", err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case insideArg:
			inside()
		case outsideArg:
			outside(os.Args[2])
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	var (
		dir      = flag.String("dir", "bin/conformance", "where compiled tests and fixtures are kept")
		out      = flag.String("out", "", "where logs and results go; -dir if empty")
		tools    = flag.String("tools", "bin/tools", "directory with buildctl and buildkitd")
		dbuild   = flag.String("dbuild", "bin/dbuild", "the dbuild program")
		daemon   = flag.String("daemon", "dbuild", "whose daemon is tested: dbuild or stock")
		only     = flag.String("only", "", "regular expression of the leaves to run; all if empty")
		again    = flag.Bool("failed", false, "run only leaves that have not passed or been skipped yet")
		parallel = flag.Int("parallel", 2, "leaves at once")
		timeout  = flag.Duration("timeout", 180*time.Second, "time that a leaf may take")
		list     = flag.Bool("list", false, "print the leaves with their groups and run nothing")
		prepare  = flag.Bool("prepare", false, "compile the tests and make the fixtures, then stop")
		report   = flag.String("report", "", "run nothing; print what the stock daemon passes and dbuild does not, and write this file")
		stock    = flag.String("stock", "", "results of the stock daemon, for -report; those below -out if empty")
	)
	flag.Parse()
	if *out == "" {
		*out = *dir
	}
	for _, p := range []*string{dir, out, tools, dbuild} {
		var err error
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}
	if *daemon != "dbuild" && *daemon != "stock" {
		return fmt.Errorf("-daemon %s: it is dbuild or stock", *daemon)
	}
	if os.Getuid() != 0 {
		return fmt.Errorf("the tests start daemons and namespaces: run as root")
	}
	s, err := openSuite(ctx, *dir)
	if err != nil {
		return err
	}
	if *report != "" {
		if *stock == "" {
			*stock = resultsFile(*out, "stock")
		}
		r, err := newReport(s, *stock, resultsFile(*out, "dbuild"))
		if err != nil {
			return err
		}
		r.print()
		return r.write(*report)
	}
	f, err := makeFixtures(ctx, *dir, s.module)
	if err != nil {
		return err
	}
	if *prepare {
		return nil
	}
	leaves, err := s.leaves(ctx, f)
	if err != nil {
		return err
	}
	before, err := readResults(resultsFile(*out, *daemon))
	if err != nil {
		return err
	}
	var chosen []leaf
	for _, l := range leaves {
		done := before[l].Outcome == passed || before[l].Outcome == skipped
		if match.MatchString(l.Name) && !(*again && done) {
			chosen = append(chosen, l)
		}
	}
	if len(chosen) == 0 {
		return fmt.Errorf("no leaf to run matches %q", *only)
	}
	if *only == "" && !*again {
		before = results{} // of all that is run anew
	}
	if *list {
		g, err := newGrouper(s)
		if err != nil {
			return err
		}
		for _, l := range chosen {
			fmt.Printf("%s\t%s\t%s\n", l.Package, l.Name, g.group(l))
		}
		return nil
	}
	r := &runner{suite: s, fixtures: f, daemon: *daemon, out: *out, timeout: *timeout}
	if r.bin, err = daemonDir(*out, *daemon, *tools, *dbuild); err != nil {
		return err
	}
	return r.run(ctx, chosen, *parallel, before)
}
