package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"
)

// maxFile is the size up to which /etc/passwd and /etc/group are read.
const maxFile = 1 << 20

// A User is who runs a command.
type User struct {
	UID, GID uint32
	Groups   []uint32 // supplementary; contains GID
	Home     string   // never empty
}

// LookupUser finds a user as the USER of a Dockerfile names it: a name or a number,
// optionally followed by a colon and a group's name or number. An empty name is root.
// Numbers need no entry in the file system's /etc/passwd, names do.
func LookupUser(rootfs, name string) (User, error) {
	if strings.ContainsAny(name, "\x00\n") {
		return User{}, fmt.Errorf("user %q: not a name", name)
	}
	root, err := os.OpenFile(rootfs, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return User{}, err
	}
	defer root.Close()
	passwd, err := readFile(root, "etc/passwd")
	if err != nil {
		return User{}, err
	}
	group, err := readFile(root, "etc/group")
	if err != nil {
		return User{}, err
	}
	defaults := &user.ExecUser{Home: "/"}
	found, err := user.GetExecUser(name, defaults, bytes.NewReader(passwd), bytes.NewReader(group))
	if err != nil {
		return User{}, fmt.Errorf("user %q: %w", name, err)
	}
	u := User{UID: uint32(found.Uid), GID: uint32(found.Gid), Home: found.Home}
	if u.Home == "" {
		u.Home = "/"
	}
	u.Groups = append(u.Groups, u.GID)
	for _, gid := range found.Sgids {
		if uint32(gid) != u.GID {
			u.Groups = append(u.Groups, uint32(gid))
		}
	}
	return u, nil
}

// readFile returns the content of a small regular file, nothing if there is none. Links
// are followed within root.
func readFile(root *os.File, name string) ([]byte, error) {
	fd, err := openat2(int(root.Fd()), name, unix.O_RDONLY|unix.O_NONBLOCK, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("/%s in the image: %w", name, err)
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("/%s in the image is not a regular file", name)
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("/%s in the image is larger than 1 MiB", name)
	}
	return io.ReadAll(io.LimitReader(file, maxFile))
}

// openat2 opens a path below a directory; the descriptor is not inherited.
func openat2(dir int, name string, flags int, resolve uint64) (int, error) {
	how := &unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: resolve}
	for {
		fd, err := unix.Openat2(dir, name, how)
		// EAGAIN: the kernel could not rule out a rename meanwhile.
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
}
