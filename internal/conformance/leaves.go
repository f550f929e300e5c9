package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A leaf is what passes or fails: a test with one entry of its matrix.
type leaf struct {
	Package string // below upstream's module
	Name    string // as the test prints it
}

// pattern is the -test.run expression of this leaf alone.
func (l leaf) pattern() string {
	parts := strings.Split(l.Name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// needsCNI says that a leaf is about networks: upstream runs it where CNI is configured.
// The others run on the network of their namespace, which costs no plugin runs.
func (l leaf) needsCNI() bool { return networkTest.MatchString(l.Name) }

var networkTest = regexp.MustCompile(`Network|DNS|Hostname`)

// leafLine is what a test prints when a leaf of the worker under test starts.
var leafLine = regexp.MustCompile(`^=== RUN\s+(\S+/worker=oci(?:/\S+)?)$`)

// leaves lists the leaves of all packages. The matrix exists only in the memory of the
// tests, so they are run once against a daemon that refuses to start; the answer is kept
// beside the compiled tests.
func (s *suite) leaves(ctx context.Context, f *fixtures) ([]leaf, error) {
	file := filepath.Join(s.tests, "leaves.json")
	var all []leaf
	switch dt, err := os.ReadFile(file); {
	case err == nil:
		return all, json.Unmarshal(dt, &all)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	bin, err := os.MkdirTemp("", "conformance-list")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(bin)
	if err := os.WriteFile(filepath.Join(bin, "buildkitd"), []byte("#!/bin/sh\nexit 1\n"), 0o755); err != nil {
		return nil, err
	}
	for _, p := range s.packages {
		fmt.Println("listing the tests of", p)
		l, err := s.leavesOf(ctx, f, p, bin)
		if err != nil {
			return nil, fmt.Errorf("list the tests of %s: %w", p, err)
		}
		all = append(all, l...)
	}
	dt, err := json.MarshalIndent(all, "", " ")
	if err != nil {
		return nil, err
	}
	return all, os.WriteFile(file, dt, 0o644)
}

func (s *suite) leavesOf(ctx context.Context, f *fixtures, pkg, bin string) ([]leaf, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.binary(pkg), "-test.v", "-test.run", "Integration$")
	cmd.Dir = filepath.Join(s.module, pkg)
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+f.path()+":/usr/bin:/bin", "TMPDIR="+bin, "HOME="+bin, mirrorVariable+"="+f.mirror())
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var found []leaf
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		if m := leafLine.FindStringSubmatch(lines.Text()); m != nil {
			found = append(found, leaf{pkg, m[1]})
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	// The tests fail, of course; only their names count.
	if err := cmd.Wait(); err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if len(found) == 0 && errs.Len() > 0 {
		return nil, errors.New(errs.String())
	}
	slices.SortFunc(found, func(a, b leaf) int { return strings.Compare(a.Name, b.Name) })
	return found, nil
}
