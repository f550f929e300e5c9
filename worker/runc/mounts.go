package runc

import (
	"fmt"
	"os"
	"path"
	"strconv"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/dbuild/dbuild/worker/runc/rootfs"
)

// bindMounts translates the mounts of a process that works in cwd, and says what each is
// mounted on: a relative target is one in cwd.
func bindMounts(list []Mount, cwd string) ([]specs.Mount, []rootfs.Target, error) {
	var mounts []specs.Mount
	var targets []rootfs.Target
	for _, m := range list {
		target := path.Join("/", m.Target)
		if !path.IsAbs(m.Target) {
			target = path.Join("/", cwd, m.Target)
		}
		if target == "/" {
			return nil, nil, fmt.Errorf("mount %s: the root file system cannot be mounted over", m.Target)
		}
		access := "rw"
		if m.ReadOnly {
			access = "ro"
		}
		out := specs.Mount{Destination: target, Type: m.Type, Source: m.Source}
		isDir := true
		switch m.Type {
		case "bind":
			info, err := os.Stat(m.Source)
			if err != nil {
				return nil, nil, fmt.Errorf("mount %s: %w", target, err)
			}
			isDir = info.IsDir()
			out.Options = []string{"rbind", access}
		case "tmpfs":
			out.Source = "tmpfs"
			out.Options = []string{"nosuid", "nodev", access}
			if target == "/dev/shm" {
				out.Options = append(out.Options, "noexec")
			}
			if m.Size < 0 {
				return nil, nil, fmt.Errorf("mount %s: size %d is negative", target, m.Size)
			}
			if m.Size > 0 {
				out.Options = append(out.Options, "size="+strconv.FormatInt(m.Size, 10))
			}
			mode := m.Mode
			if mode == 0 {
				mode = 0o1777
			}
			out.Options = append(out.Options, fmt.Sprintf("mode=%o", mode))
			if m.UID != 0 || m.GID != 0 {
				out.Options = append(out.Options, fmt.Sprintf("uid=%d", m.UID), fmt.Sprintf("gid=%d", m.GID))
			}
		default:
			return nil, nil, fmt.Errorf("mount %s: type %q is not known", target, m.Type)
		}
		mounts = append(mounts, out)
		targets = append(targets, rootfs.Target{Path: target, Dir: isDir})
	}
	return mounts, targets, nil
}

// addedTargets says what mounts of others than known are mounted on.
func addedTargets(mounts []specs.Mount, known map[string]bool) []rootfs.Target {
	var targets []rootfs.Target
	for _, m := range mounts {
		if known[m.Destination] {
			continue
		}
		isDir := true
		if info, err := os.Stat(m.Source); err == nil {
			isDir = info.IsDir()
		}
		targets = append(targets, rootfs.Target{Path: path.Join("/", m.Destination), Dir: isDir})
	}
	return targets
}

// defaultTargets are the mount points of every container. Those of the kernel's file systems
// stay, as they do with every runtime: images without them get them with their first step.
func defaultTargets() []rootfs.Target {
	return []rootfs.Target{
		{Path: "/proc", Dir: true, Keep: true}, {Path: "/dev", Dir: true, Keep: true}, {Path: "/sys", Dir: true, Keep: true},
		{Path: "/etc/resolv.conf"}, {Path: "/etc/hosts"},
	}
}
