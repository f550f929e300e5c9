package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

const upstream = "github.com/moby/buildkit"

// A suite is upstream's integration tests, compiled.
type suite struct {
	module   string   // directory of upstream's module
	tests    string   // directory of the compiled tests, one of each version
	packages []string // below module, such as frontend/dockerfile
}

// openSuite compiles what is not compiled yet. It asks the go command in the current
// directory for the version, so that go.mod alone says which tests are run.
func openSuite(ctx context.Context, dir string) (*suite, error) {
	out, err := goCommand(ctx, "", "list", "-m", "-f", "{{.Version}} {{.Dir}}", upstream)
	if err != nil {
		return nil, err
	}
	version, module, ok := strings.Cut(strings.TrimSpace(out), " ")
	if !ok {
		return nil, fmt.Errorf("the sources of %s are missing: go mod download", upstream)
	}
	s := &suite{module: module, tests: filepath.Join(dir, "tests", version)}
	if s.packages, err = integrationPackages(module); err != nil {
		return nil, err
	}
	for _, p := range s.packages {
		if err := s.compile(ctx, p); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// binary is the compiled test of a package.
func (s *suite) binary(pkg string) string {
	return filepath.Join(s.tests, strings.ReplaceAll(pkg, "/", "_")+".test")
}

func (s *suite) compile(ctx context.Context, pkg string) error {
	if _, err := os.Stat(s.binary(pkg)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(s.tests, 0o755); err != nil {
		return err
	}
	fmt.Println("compiling", pkg)
	tmp := s.binary(pkg) + ".tmp"
	defer os.Remove(tmp)
	if _, err := goCommand(ctx, s.module, "test", "-c", "-o", tmp, "./"+pkg); err != nil {
		return err
	}
	return os.Rename(tmp, s.binary(pkg))
}

// integrationPackages finds the packages whose tests use upstream's harness.
func integrationPackages(module string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(module, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		dt, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(dt, []byte("integration.Run(")) {
			return err
		}
		pkg, err := filepath.Rel(module, filepath.Dir(path))
		if err == nil && !slices.Contains(found, pkg) {
			found = append(found, pkg)
		}
		return err
	})
	return found, err
}

func goCommand(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	// Upstream's module decides on its dependencies and needs no C.
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0", "GOFLAGS=-trimpath")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}
