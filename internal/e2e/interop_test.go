package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdInterop takes a directory through caches in all directions: interop [-in STORE] DIR MODE ...
// The caches are in the registry, or in a store of cachestore.
//
//	buildkitd, whose cache an empty daemon reads
//	the daemon, whose cache an empty daemon reads, and an empty buildkitd
//
// with each mode. Every step of the Dockerfile writes something random, so equal files are
// files that were found. A daemon that finds all reads no layer.
func cmdInterop(ts *testscript.TestScript, neg bool, args []string) {
	store, args := option(ts, args, "-in", "")
	if neg || len(args) < 2 || ts.Getenv("BUILDKITD") == "" {
		ts.Fatalf("usage: interop [-in STORE] DIR MODE ..., after daemon, registry and buildkitd")
	}
	i := &interop{ts: ts, s: get(ts), dir: args[0], modes: args[1:]}
	i.at, i.gets = i.inRegistry, i.s.reg.takeGets
	if store != "" {
		i.s.stores[store].in(i)
	}
	i.buildkitd("theirs", i.all("--export-cache", "theirs")...)
	i.found("theirs")
	i.empty()
	i.dbuild("ours", i.all("--cache-to", "ours")...)
	i.found("ours")
	for _, mode := range i.modes {
		i.buildkitd("got", "--import-cache", i.at("ours", mode))
		i.same("ours", "got", "buildkitd with a "+mode+" cache of ours")
	}
}

type interop struct {
	ts    *testscript.TestScript
	s     *state
	dir   string
	modes []string
	// at is what flags say of a cache, and gets returns the layers that were read of all
	// since it was called last.
	at   func(whose, mode string) string
	gets func() []string
}

// all is a flag for each mode.
func (i *interop) all(flag, whose string) (args []string) {
	for _, mode := range i.modes {
		args = append(args, flag, i.at(whose, mode))
	}
	return args
}

func (i *interop) inRegistry(whose, mode string) string {
	return fmt.Sprintf("type=registry,ref=%s/%s/%s/%s,mode=%s,registry.insecure=true", i.ts.Getenv("REG"), whose, mode, i.dir, mode)
}

// found checks what an empty daemon finds in the caches that whose build wrote.
func (i *interop) found(whose string) {
	for _, mode := range i.modes {
		from := i.at(whose, mode)
		i.empty()
		i.gets()
		i.dbuild("", "--cache-from", from)
		if gets := i.gets(); len(gets) > 0 {
			i.ts.Fatalf("%s: with the %s cache of %s the daemon read %d layers: %v", i.dir, mode, whose, len(gets), gets)
		}
		i.dbuild("got", "--cache-from", from)
		i.same(whose, "got", "dbuild with a "+mode+" cache of "+whose)
	}
}

// empty makes the daemon one that knows nothing.
func (i *interop) empty() {
	i.ts.Check(i.s.stop(syscall.SIGTERM))
	i.ts.Check(os.RemoveAll(i.s.root()))
	i.ts.Check(i.s.start())
}

// dbuild builds into the directory DIR.out, or nowhere.
func (i *interop) dbuild(out string, args ...string) {
	dest := "type=cacheonly"
	if out != "" {
		dest = i.dest(out)
	}
	args = append(args, "--build-arg", "REG="+i.ts.Getenv("REG"), "--build-arg", "URL="+i.ts.Getenv("URL"), "-o", dest, i.ts.MkAbs(i.dir))
	i.ts.Check(i.ts.Exec("dbuild", args...))
}

// buildkitd builds with a stock daemon that has nothing.
func (i *interop) buildkitd(out string, args ...string) {
	dir := i.ts.MkAbs(i.dir)
	i.ts.Check(i.ts.Exec("buildctl", "--addr", i.ts.Getenv("BUILDKITD"), "prune", "--all"))
	args = append([]string{
		"--addr", i.ts.Getenv("BUILDKITD"), "build", "--frontend", "dockerfile.v0", "--local", "context=" + dir, "--local", "dockerfile=" + dir,
		"--opt", "build-arg:REG=" + i.ts.Getenv("REG"), "--opt", "build-arg:URL=" + i.ts.Getenv("URL"), "--output", "type=local,dest=" + i.dest(out),
	}, args...)
	i.ts.Check(i.ts.Exec("buildctl", args...))
}

// dest is a directory for a result, emptied.
func (i *interop) dest(out string) string {
	dir := i.ts.MkAbs(filepath.Join("results", i.dir+"."+out))
	i.ts.Check(os.RemoveAll(dir))
	return dir
}

// same checks that two results are equal but for times.
func (i *interop) same(want, got, what string) {
	one, other := i.files(want), i.files(got)
	for name, is := range one {
		if other[name] != is {
			i.ts.Fatalf("%s: %s: %s is not what the cache has", i.dir, what, name)
		}
	}
	if len(one) != len(other) || len(one) == 0 {
		i.ts.Fatalf("%s: %s: %d files instead of %d", i.dir, what, len(other), len(one))
	}
}

// files describes what is in a result.
func (i *interop) files(out string) map[string]string {
	root := i.ts.MkAbs(filepath.Join("results", i.dir+"."+out))
	found := map[string]string{}
	i.ts.Check(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		is := info.Mode().String()
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			is += " " + to
		case info.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			is += " " + string(b)
		}
		rel, err := filepath.Rel(root, path)
		found[rel] = is
		return err
	}))
	return found
}
