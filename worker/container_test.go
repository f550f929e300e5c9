package worker_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/internal/treehash"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
	"github.com/dbuild/dbuild/worker"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

func rootMount() frontend.ContainerMount {
	return frontend.ContainerMount{Mount: &pb.Mount{Dest: "/"}}
}

// TestContainerRefused asks for what a frontend may not have, or what makes no sense.
func TestContainerRefused(t *testing.T) {
	w := newWorld(t)
	for _, test := range []struct {
		name string
		r    frontend.ContainerRequest
		is   func(error) bool
	}{
		{"unknown network", frontend.ContainerRequest{Mounts: []frontend.ContainerMount{rootMount()}, Network: 99}, cerrdefs.IsInvalidArgument},
		{"negative network", frontend.ContainerRequest{Mounts: []frontend.ContainerMount{rootMount()}, Network: -1}, cerrdefs.IsInvalidArgument},
		{"no mounts", frontend.ContainerRequest{}, cerrdefs.IsInvalidArgument},
		{"empty mount", frontend.ContainerRequest{Mounts: []frontend.ContainerMount{rootMount(), {}}}, cerrdefs.IsInvalidArgument},
		{"unknown mount", frontend.ContainerRequest{Mounts: []frontend.ContainerMount{rootMount(), {Mount: &pb.Mount{Dest: "/x", MountType: 77}}}}, cerrdefs.IsInvalidArgument},
		{"cache without options", frontend.ContainerRequest{Mounts: []frontend.ContainerMount{rootMount(), {Mount: &pb.Mount{Dest: "/x", MountType: pb.MountType_CACHE}}}}, cerrdefs.IsInvalidArgument},
		{"empty host", frontend.ContainerRequest{Mounts: []frontend.ContainerMount{rootMount()}, ExtraHosts: []*pb.HostIP{nil}}, cerrdefs.IsInvalidArgument},
		{"bad address", frontend.ContainerRequest{Mounts: []frontend.ContainerMount{rootMount()}, ExtraHosts: []*pb.HostIP{{Host: "x", IP: "y"}}}, cerrdefs.IsInvalidArgument},
	} {
		if _, err := w.worker.NewContainer(t.Context(), test.r, worker.ContainerOptions{}); !test.is(err) {
			t.Errorf("%s: got %v", test.name, err)
		}
	}
	meta := &pb.Meta{Args: []string{"x"}}
	host, err := w.worker.NewContainer(t.Context(), frontend.ContainerRequest{Mounts: []frontend.ContainerMount{rootMount()}, Network: pb.NetMode_HOST}, worker.ContainerOptions{})
	must(t, err)
	defer func() { must(t, host.Release(t.Context())) }()
	if _, err := host.Start(t.Context(), frontend.Process{Meta: meta}); !cerrdefs.IsPermissionDenied(err) {
		t.Errorf("host network: got %v", err)
	}
	c, err := w.worker.NewContainer(t.Context(), frontend.ContainerRequest{Mounts: []frontend.ContainerMount{rootMount()}}, worker.ContainerOptions{})
	must(t, err)
	defer func() { must(t, c.Release(t.Context())) }()
	for _, test := range []struct {
		name string
		p    frontend.Process
		is   func(error) bool
	}{
		{"insecure", frontend.Process{Meta: meta, Security: pb.SecurityMode_INSECURE}, cerrdefs.IsPermissionDenied},
		{"unknown security", frontend.Process{Meta: meta, Security: 99}, cerrdefs.IsInvalidArgument},
		{"negative security", frontend.Process{Meta: meta, Security: -1}, cerrdefs.IsInvalidArgument},
		{"nothing", frontend.Process{}, cerrdefs.IsInvalidArgument},
		{"no arguments", frontend.Process{Meta: &pb.Meta{}}, cerrdefs.IsInvalidArgument},
		{"bad secret", frontend.Process{Meta: meta, SecretEnv: []*pb.SecretEnv{nil}}, cerrdefs.IsInvalidArgument},
	} {
		in, out := io.Pipe()
		test.p.Stdin = in
		if _, err := c.Start(t.Context(), test.p); !test.is(err) {
			t.Errorf("%s: got %v", test.name, err)
		}
		if _, err := out.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: its stream is open: %v", test.name, err)
		}
	}
	if n := w.exec.runs(); n > 0 {
		t.Errorf("%d processes ran", n)
	}
}

func TestContainerFiles(t *testing.T) {
	w := newWorld(t)
	res, err := w.try(w.marshal(llb.File(files("/file", "content"), []llb.FileAction{
		llb.Mkdir{Path: "/dir", Mode: 0o755}, llb.Mkfile{Path: "/dir/inner", Mode: 0o644, Data: []byte("in")},
	}, llb.Meta{})), request{})
	must(t, err)
	defer res.ref.Release()
	w.exec.do = nil
	c, err := w.worker.NewContainer(t.Context(), frontend.ContainerRequest{Mounts: []frontend.ContainerMount{
		rootMount(),
		{Mount: &pb.Mount{Dest: "/mem", MountType: pb.MountType_TMPFS}},
		{Mount: &pb.Mount{Dest: "/files"}, Files: map[string][]byte{"a": []byte("b")}},
	}}, worker.ContainerOptions{Refs: []solver.Ref{res.ref, nil, nil}})
	must(t, err)
	t.Cleanup(func() { must(t, c.Release(context.Background())) })
	open := func(mount int) treehash.FS {
		t.Helper()
		tree, done, err := c.Open(mount)
		must(t, err)
		t.Cleanup(done)
		return tree
	}
	tree := open(0)
	if got := content(t, tree, "file"); got != "content" {
		t.Errorf("got %q", got)
	}
	if got := content(t, open(2), "a"); got != "b" {
		t.Errorf("got %q", got)
	}
	for _, mount := range []int{-1, 1, 3} {
		if _, _, err := c.Open(mount); !cerrdefs.IsInvalidArgument(err) {
			t.Errorf("mount %d: got %v", mount, err)
		}
	}
	// What a process could make there, by the path of the mount on the host.
	root := w.mounted(t)
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("secret"), 0o644))
	must(t, unix.Mkfifo(filepath.Join(root, "fifo"), 0o644))
	must(t, unix.Mknod(filepath.Join(root, "device"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
	must(t, os.Symlink(secret, filepath.Join(root, "link")))
	must(t, os.Symlink("/", filepath.Join(root, "top")))
	must(t, os.Symlink("../../../../../../../../..", filepath.Join(root, "up")))
	for _, name := range []string{"fifo", "device", "link", "dir"} {
		if _, err := tree.Open(name); err == nil {
			t.Errorf("%s was opened", name)
		}
	}
	for _, name := range []string{"up" + secret, "top" + secret, "../../.." + secret} {
		if _, err := tree.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if got := content(t, tree, "top/dir/inner"); got != "in" {
		t.Errorf("got %q", got)
	}
	if st, err := tree.Lstat("link"); err != nil || st.Linkname != secret {
		t.Errorf("got %v %v", st, err)
	}
	names, err := tree.ReadDir("")
	must(t, err)
	if len(names) != 7 {
		t.Errorf("got %q", names)
	}
}

// mounted returns the one mount of the store that there is.
func (w *world) mounted(t *testing.T) string {
	t.Helper()
	var found []string
	must(t, filepath.WalkDir(w.root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == "file" && !d.IsDir() {
			found = append(found, filepath.Dir(p))
		}
		return nil
	}))
	for _, dir := range found {
		var st unix.Statfs_t
		if unix.Statfs(dir, &st) == nil && st.Type == unix.OVERLAYFS_SUPER_MAGIC {
			return dir
		}
	}
	t.Fatalf("none of %q is mounted", found)
	return ""
}

func TestContainerReleased(t *testing.T) {
	w := newWorld(t)
	c, err := w.worker.NewContainer(t.Context(), frontend.ContainerRequest{Mounts: []frontend.ContainerMount{rootMount()}}, worker.ContainerOptions{})
	must(t, err)
	tree, done, err := c.Open(0)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Release(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("released while it is read: %v", err)
	}
	if _, err := tree.ReadDir(""); err != nil {
		t.Errorf("while it is read: %v", err)
	}
	done()
	must(t, c.Release(t.Context()))
	must(t, c.Release(t.Context()))
	if _, _, err := c.Open(0); !cerrdefs.IsFailedPrecondition(err) {
		t.Errorf("open: %v", err)
	}
	if _, err := c.Start(t.Context(), frontend.Process{Meta: &pb.Meta{Args: []string{"x"}}}); !cerrdefs.IsFailedPrecondition(err) {
		t.Errorf("start: %v", err)
	}
}

func TestDeviceGrants(t *testing.T) {
	var g worker.DeviceGrants
	for _, bad := range []string{",", ",alias=x", "a.b/c=d,alias", "a.b/c=d,alias=", "a.b/c=d,other=x"} {
		if err := g.Grant(bad); !cerrdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
	must(t, g.Grant("a.b/c=d"))
	must(t, g.Grant("a.b/c=e,alias=gpu"))
	if g.All || !g.Names["a.b/c=d"] || g.Aliases["gpu"] != "a.b/c=e" || g.Names["a.b/c=e"] {
		t.Errorf("got %+v", g)
	}
	must(t, g.Grant(""))
	if !g.All {
		t.Errorf("got %+v", g)
	}
}
