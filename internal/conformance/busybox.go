package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
)

// makeBusybox compiles busybox from Debian's source package and returns the program, which
// is kept in dir. Debian's own static busybox will not do: it lacks programs that the tests
// run (ttysize, adduser), and its C library looks names up through plug-ins, which crash in
// an image that has other ones.
func makeBusybox(ctx context.Context, dir string) (string, error) {
	dir = filepath.Join(dir, "busybox")
	program := filepath.Join(dir, "busybox")
	if _, err := os.Stat(program); !errors.Is(err, fs.ErrNotExist) {
		return program, err
	}
	fmt.Println("compiling busybox")
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	source, err := busyboxSource(ctx, dir)
	if err != nil {
		return "", fmt.Errorf("source of busybox: %w", err)
	}
	tree, headers := filepath.Join(dir, "tree"), filepath.Join(dir, "headers")
	for _, d := range []string{tree, headers} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", err
		}
	}
	// The C library brings all headers but those of the kernel.
	for name, at := range map[string]string{"linux": "linux", "asm-generic": "asm-generic", "mtd": "mtd", "asm": "x86_64-linux-gnu/asm"} {
		if err := os.Symlink(filepath.Join("/usr/include", at), filepath.Join(headers, name)); err != nil {
			return "", err
		}
	}
	for _, step := range [][]string{
		{"tar", "-xf", source, "--strip-components=1"},
		{"make", "defconfig"},
		{"sed", "-i", "s/# CONFIG_STATIC is not set/CONFIG_STATIC=y/", ".config"},
		{"make", "-j" + strconv.Itoa(runtime.NumCPU()), "CC=musl-gcc", "HOSTCC=gcc", "EXTRA_CFLAGS=-w -idirafter " + headers, "busybox"},
		{"mv", "busybox", program},
	} {
		if err := command(ctx, tree, step...); err != nil {
			return "", err
		}
	}
	return program, os.RemoveAll(tree)
}

// busyboxSource downloads the source package, with a list of sources of its own: machines
// rarely have those of source packages.
func busyboxSource(ctx context.Context, dir string) (string, error) {
	lists, list := filepath.Join(dir, "lists"), filepath.Join(dir, "sources.list")
	if err := os.MkdirAll(filepath.Join(lists, "partial"), 0o755); err != nil {
		return "", err
	}
	const line = "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main\n"
	if err := os.WriteFile(list, []byte(line), 0o644); err != nil {
		return "", err
	}
	options := []string{"-qq", "-o", "Dir::Etc::SourceList=" + list, "-o", "Dir::Etc::SourceParts=/dev/null", "-o", "Dir::State::Lists=" + lists}
	for _, what := range [][]string{{"update"}, {"source", "--download-only", "busybox"}} {
		if err := command(ctx, dir, append(append([]string{"apt-get"}, options...), what...)...); err != nil {
			return "", err
		}
	}
	found, err := filepath.Glob(filepath.Join(dir, "busybox_*.orig.tar.*"))
	if err != nil || len(found) != 1 {
		return "", errors.Join(fmt.Errorf("%d archives in %s", len(found), dir), err)
	}
	return found[0], nil
}

// command runs a program, whose output is in the error if it fails.
func command(ctx context.Context, dir string, args ...string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", args[0], err, out)
	}
	return nil
}
