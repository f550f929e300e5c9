package snapshot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// A mounter shows layers as one directory tree.
type mounter interface {
	xattr() string // prefix of the attributes that mark opaque directories
	// draft mounts lower and upper for writing. unmount leaves the changes in upper.
	draft(ctx context.Context, lower *View, upper string) (root string, unmount func() error, err error)
	// readonly mounts layers for reading.
	readonly(ctx context.Context, v *View) (root string, unmount func() error, err error)
}

// maxLayers is how many lower layers the kernel accepts (OVL_MAX_STACK).
const maxLayers = 500

// A Mount is a read-only mount of a Ref.
type Mount struct {
	Root string

	unmount func() error
}

// Unmount ends the mount. Calling it again does nothing.
func (m *Mount) Unmount() error { return m.unmount() }

// Mount makes every layer files and mounts the whole read-only. (With the native
// snapshotter it is a copy, and writing to it has no effect on the Ref.)
func (r *Ref) Mount(ctx context.Context, a Access) (*Mount, error) {
	v, err := r.View(ctx, a)
	if err != nil {
		return nil, err
	}
	r.Retain()
	root, unmount, err := r.s.mnt.readonly(ctx, v)
	if err != nil {
		r.Release()
		return nil, err
	}
	return &Mount{Root: root, unmount: sync.OnceValue(func() error {
		defer r.Release()
		return unmount()
	})}, nil
}

func chooseMounter(s *Store, name string) (mounter, error) {
	switch name {
	case "", "overlay", "overlayfs":
	case "native":
		return &native{s: s, prefix: "trusted.overlay."}, nil
	default:
		return nil, fmt.Errorf("unknown snapshotter %q (overlay, native): %w", name, errdefs.ErrInvalidArgument)
	}
	m, err := newOverlay(s)
	if err == nil {
		return m, nil
	}
	if name != "" {
		return nil, fmt.Errorf("overlayfs does not work in %s: %w", s.root, err)
	}
	return &native{s: s, prefix: "trusted.overlay."}, nil
}

// overlayMounter uses overlayfs.
type overlayMounter struct {
	s         *Store
	prefix    string
	empty     string // an empty directory: overlay wants two lower layers, or an upper one
	userxattr bool
	options   []string // for every mount
	volatile  bool
	fsconfig  bool // the kernel takes layers one by one, with no limit on their names' length
}

func newOverlay(s *Store) (*overlayMounter, error) {
	m := &overlayMounter{s: s, prefix: "trusted.overlay.", empty: filepath.Join(s.alloc.inner.dir, emptyDirName)}
	if err := os.MkdirAll(m.empty, 0o755); err != nil {
		return nil, err
	}
	var err error
	if m.userxattr, err = overlayutils.NeedsUserXAttr(s.root); err == nil && m.userxattr {
		m.prefix = "user.overlay."
	}
	// The layers must be plain overlay upper directories, whatever the kernel's defaults:
	// each of these features would tie a layer to what it was made on.
	all := []string{"index=off", "redirect_dir=off", "metacopy=off"}
	var first error
	for _, try := range []struct {
		options            []string
		volatile, fsconfig bool
	}{{all, true, true}, {all, true, false}, {all, false, false}, {nil, false, false}} {
		m.options, m.volatile, m.fsconfig = try.options, try.volatile, try.fsconfig
		err := m.probe()
		if err == nil {
			return m, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

func (m *overlayMounter) probe() error {
	dir := filepath.Join(m.s.work, "probe")
	defer os.RemoveAll(dir)
	for _, d := range []string{"a", "b", "upper"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	_, unmount, err := m.mount([]string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}, filepath.Join(dir, "upper"))
	if err != nil {
		return err
	}
	return unmount()
}

func (m *overlayMounter) xattr() string { return m.prefix }

func (m *overlayMounter) draft(_ context.Context, lower *View, upper string) (string, func() error, error) {
	return m.mount(lower.roots, upper)
}

func (m *overlayMounter) readonly(_ context.Context, v *View) (string, func() error, error) {
	return m.mount(append(slices.Clone(v.roots), m.empty), "")
}

// mount mounts lowers (highest first) beneath upper, or read-only if upper is "".
func (m *overlayMounter) mount(lowers []string, upper string) (string, func() error, error) {
	if len(lowers) > maxLayers {
		return "", nil, fmt.Errorf("%d layers are more than the kernel can mount (%d)", len(lowers), maxLayers)
	}
	dir := filepath.Join(m.s.work, strconv.FormatUint(m.s.workSeq.Add(1), 36))
	root := filepath.Join(dir, "m")
	work := ""
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", nil, err
	}
	if err := os.Mkdir(root, 0o755); err != nil {
		return "", nil, err
	}
	if upper != "" {
		work = filepath.Join(dir, "w")
		if err := os.Mkdir(work, 0o700); err != nil {
			return "", nil, err
		}
	}
	err := errTooLong
	if m.fsconfig {
		err = m.mountNew(root, lowers, upper, work)
	}
	if errors.Is(err, errTooLong) {
		err = m.mountOld(root, lowers, upper, work)
	}
	if err != nil {
		os.RemoveAll(dir)
		return "", nil, fmt.Errorf("mount %d layers: %w", len(lowers), err)
	}
	return root, func() error {
		if err := unmount(root); err != nil {
			return err
		}
		m.s.removeSoon(dir)
		return nil
	}, nil
}

// removeSoon removes a tree beneath work/ in the background.
func (s *Store) removeSoon(dir string) {
	if !s.enter() {
		os.RemoveAll(dir)
		return
	}
	go func() {
		defer s.bg.Done()
		os.RemoveAll(dir) // what is left, the next Open removes
	}()
}

// errTooLong says that a path does not fit into the 256 bytes fsconfig allows.
var errTooLong = errors.New("path too long")

func (m *overlayMounter) mountNew(root string, lowers []string, upper, work string) error {
	for _, p := range append([]string{upper, work}, lowers...) {
		if len(p) > 250 {
			return errTooLong
		}
	}
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fd)
	set := func(k, v string) {
		if err == nil {
			if err = unix.FsconfigSetString(fd, k, v); err != nil {
				err = fmt.Errorf("overlay option %s=%s: %w", k, v, err)
			}
		}
	}
	set("source", "overlay")
	for _, l := range lowers {
		set("lowerdir+", l)
	}
	for _, o := range m.options {
		k, v, _ := strings.Cut(o, "=")
		set(k, v)
	}
	if upper != "" {
		set("upperdir", upper)
		set("workdir", work)
	}
	flag := func(on bool, k string) {
		if err == nil && on {
			err = unix.FsconfigSetFlag(fd, k)
		}
	}
	flag(upper != "" && m.volatile, "volatile")
	flag(m.userxattr, "userxattr")
	if err != nil {
		return err
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return os.NewSyscallError("fsconfig", err)
	}
	attr := 0
	if upper == "" {
		attr = unix.MOUNT_ATTR_RDONLY
	}
	mfd, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(mfd)
	return os.NewSyscallError("move_mount", unix.MoveMount(mfd, "", unix.AT_FDCWD, root, unix.MOVE_MOUNT_F_EMPTY_PATH))
}

func (m *overlayMounter) mountOld(root string, lowers []string, upper, work string) error {
	options := append(slices.Clone(m.options), "lowerdir="+strings.Join(lowers, ":"))
	if upper != "" {
		options = append(options, "upperdir="+upper, "workdir="+work)
		if m.volatile {
			options = append(options, "volatile")
		}
	} else {
		options = append(options, "ro")
	}
	if m.userxattr {
		options = append(options, "userxattr")
	}
	return mount.All([]mount.Mount{{Type: "overlay", Source: "overlay", Options: options}}, root)
}

func unmount(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if err == unix.EBUSY {
		// Somebody still has a file open, such as a process that is about to die.
		err = mount.Unmount(path, unix.UMOUNT_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	return nil
}

// wipeWork makes an empty work directory, ending mounts that a crash left in it.
func wipeWork(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("read mount table: %w", err)
	}
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("empty work directory: %w", err)
	}
	return os.Mkdir(dir, 0o700)
}
