package runc_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dbuild/dbuild/worker/runc"
)

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestMountPointsRemoved(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "secret"), []byte("s"), 0o600))
	for _, recursive := range []bool{false, true} {
		rootfs := newRootfs(t)
		old := time.Unix(1_000_000_000, 0)
		for _, name := range []string{"", "etc"} {
			must(t, os.Chtimes(filepath.Join(rootfs, name), old, old))
		}
		_, err := sh(t, e, runc.Process{Rootfs: rootfs, RemoveStubsRecursive: recursive, Mounts: []runc.Mount{
			{Type: "bind", Source: filepath.Join(dir, "secret"), Target: "/run/secrets/one"},
			{Type: "bind", Source: dir, Target: "/cache"},
			{Type: "tmpfs", Target: "/cache/inner"},
		}}, "test -e /run/secrets/one && test -e /proc/self && test -s /etc/hosts")
		must(t, err)
		for _, name := range []string{"proc", "sys", "dev"} {
			if info, err := os.Lstat(filepath.Join(rootfs, name)); err != nil || info.Mode() != os.ModeDir|0o755 {
				t.Errorf("%s: %v %v, want an empty directory", name, info, err)
			}
		}
		for _, name := range []string{"cache", "etc/hosts", "etc/resolv.conf", "run/secrets/one"} {
			if exists(filepath.Join(rootfs, name)) {
				t.Errorf("recursive %t: %s is still there", recursive, name)
			}
		}
		if got := !exists(filepath.Join(rootfs, "run")); got != recursive {
			t.Errorf("recursive %t: directory of a mount point removed: %t", recursive, got)
		}
		info, err := os.Stat(filepath.Join(rootfs, "etc"))
		must(t, err)
		if !info.ModTime().Equal(old) {
			t.Errorf("/etc changed at %v", info.ModTime())
		}
	}
}

func TestMountPointsKept(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	rootfs := newRootfs(t)
	must(t, os.WriteFile(filepath.Join(rootfs, "etc/hosts"), nil, 0o644)) // was there, empty
	must(t, os.Mkdir(filepath.Join(rootfs, "proc"), 0o755))
	_, err := sh(t, e, runc.Process{Rootfs: rootfs, Mounts: []runc.Mount{{Type: "tmpfs", Target: "/data/t"}}, RemoveStubsRecursive: true},
		"touch /data/kept /etc/new")
	must(t, err)
	for _, name := range []string{"etc/hosts", "proc", "data/kept", "etc/new"} {
		if !exists(filepath.Join(rootfs, name)) {
			t.Errorf("%s is gone", name)
		}
	}
	if exists(filepath.Join(rootfs, "data/t")) {
		t.Error("the mount point beside a new file is still there")
	}
	info, err := os.Stat(filepath.Join(rootfs, "etc"))
	must(t, err)
	if time.Since(info.ModTime()) > time.Hour {
		t.Errorf("/etc got a new file but its time is %v", info.ModTime())
	}
}

// TestMountPointsHostile lets steps put links where mount points were.
func TestMountPointsHostile(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	// What a cleanup that follows links would remove.
	canary := t.TempDir()
	must(t, os.MkdirAll(canary+"/b/dir", 0o755))
	must(t, os.WriteFile(canary+"/b/file", nil, 0o644))
	must(t, os.WriteFile(canary+"/hosts", nil, 0o644))
	old := time.Unix(1_000_000_000, 0)
	for _, dir := range []string{"", "b", "b/dir"} {
		must(t, os.Chtimes(filepath.Join(canary, dir), old, old))
	}
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o644))
	mounts := []runc.Mount{
		{Type: "bind", Source: file, Target: "/a/b/file"},
		{Type: "tmpfs", Target: "/a/b/dir"},
	}
	for _, script := range []string{
		"mv /a /moved && ln -s " + canary + " /a",
		"mv /a/b /moved && ln -s " + canary + "/b /a/b",
		"mv /etc /moved; ln -s " + canary + " /etc",
		"mv /a/b /moved; mkdir -p /a/b/file; mkfifo /a/b/dir; touch /a/b/file/x",
		"umount /a/b/file; rm /a/b/file; ln -s " + canary + "/b/file /a/b/file; umount /a/b/dir; rmdir /a/b/dir; ln -s " + canary + "/b/dir /a/b/dir",
	} {
		rootfs := newRootfs(t)
		_, _ = sh(t, e, runc.Process{Rootfs: rootfs, Mounts: mounts, RemoveStubsRecursive: true, Security: 1}, script+"; true")
		for _, name := range []string{"b/dir", "b/file", "hosts"} {
			if !exists(filepath.Join(canary, name)) {
				t.Errorf("%s: removed %s outside the root file system", script, name)
			}
		}
		for _, dir := range []string{"", "b", "b/dir"} {
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(canary, dir), &st))
			if st.Mtim.Sec != old.Unix() {
				t.Errorf("%s: touched %q outside the root file system", script, dir)
			}
		}
	}
}

// TestLinksInImage runs in root file systems whose directories are links to the outside.
func TestLinksInImage(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	for _, name := range []string{"dev", "proc", "sys", "etc", "run", "cache"} {
		canary := t.TempDir()
		rootfs := newRootfs(t)
		must(t, os.RemoveAll(filepath.Join(rootfs, name)))
		must(t, os.Symlink(canary, filepath.Join(rootfs, name)))
		_, _ = sh(t, e, runc.Process{Rootfs: rootfs, Mounts: []runc.Mount{{Type: "tmpfs", Target: "/run/x"}, {Type: "tmpfs", Target: "/cache/y/z"}}}, "true")
		left, err := os.ReadDir(canary)
		must(t, err)
		if len(left) > 0 {
			t.Errorf("/%s -> %s: %v was made there", name, canary, left)
		}
	}
}

// TestStrangeUserFiles looks up users in root file systems made to hang or to fill memory.
func TestStrangeUserFiles(t *testing.T) {
	e := newExecutor(t, runc.Config{})
	for name, make := range map[string]func(path string) error{
		"fifo":          func(p string) error { return unix.Mkfifo(p, 0o644) },
		"directory":     func(p string) error { return os.Mkdir(p, 0o755) },
		"device":        func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5))) },
		"link to zeros": func(p string) error { return os.Symlink("/dev/zero", p) },
		"huge":          func(p string) error { return os.WriteFile(p, nil, 0o644) },
	} {
		for _, file := range []string{"etc/passwd", "etc/group"} {
			rootfs := newRootfs(t)
			path := filepath.Join(rootfs, file)
			must(t, os.Remove(path))
			must(t, make(path))
			if name == "huge" {
				must(t, os.Truncate(path, 2<<30))
			}
			result := ran(e, runc.Process{ID: newID(), Rootfs: rootfs, User: "app", Args: []string{"/bin/true"}})
			if err := wait(t, result); err == nil {
				// A link that leads nowhere in the image is a missing file: then there is no
				// such user, unless it is the group file.
				if name != "link to zeros" || file != "etc/group" {
					t.Errorf("%s as /%s was accepted", name, file)
				}
			}
		}
	}
}
