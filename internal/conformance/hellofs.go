package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// hellofsName is the name under which this program, in an image, is a file system in user
// space with one file, hello. It shows that a step may use /dev/fuse. It speaks as much of
// the kernel's protocol (linux/fuse.h, 7.31) as ls and cat need.
const hellofsName = "hellofs"

const helloText = "hello, world\n"

// The inodes.
const (
	fuseRoot  = 1
	fuseHello = 2
)

// Operations, by the kernel's numbers.
const (
	fuseLookup      = 1
	fuseForget      = 2
	fuseGetattr     = 3
	fuseOpen        = 14
	fuseRead        = 15
	fuseRelease     = 18
	fuseFlush       = 25
	fuseInit        = 26
	fuseOpendir     = 27
	fuseReaddir     = 28
	fuseReleasedir  = 29
	fuseBatchForget = 42
)

type fuseRequest struct {
	Len, Opcode        uint32
	Unique, Node       uint64
	UID, GID, PID, Pad uint32
}

type fuseAnswer struct {
	Len    uint32
	Error  int32
	Unique uint64
}

type fuseAttr struct {
	Ino, Size, Blocks, Atime, Mtime, Ctime              uint64
	AtimeNsec, MtimeNsec, CtimeNsec                     uint32
	Mode, Nlink, UID, GID, Rdev, BlockSize, FlagsUnused uint32
}

func attrOf(node uint64) fuseAttr {
	if node == fuseHello {
		return fuseAttr{Ino: fuseHello, Size: uint64(len(helloText)), Mode: unix.S_IFREG | 0o444, Nlink: 1}
	}
	return fuseAttr{Ino: fuseRoot, Mode: unix.S_IFDIR | 0o555, Nlink: 2}
}

// hellofs mounts the file system at dir and serves it until it is unmounted.
func hellofs(dir string) error {
	dev, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", dev)
	if err := unix.Mount(hellofsName, dir, "fuse", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	buf := make([]byte, 1<<17)
	for {
		n, err := unix.Read(dev, buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ENODEV):
			return nil
		case err != nil:
			return err
		}
		var req fuseRequest
		size, err := binary.Decode(buf[:n], binary.NativeEndian, &req)
		if err != nil {
			return err
		}
		if req.Opcode == fuseForget || req.Opcode == fuseBatchForget {
			continue
		}
		body, errno := answerFuse(req, buf[size:n])
		answer := fuseAnswer{Len: uint32(16 + len(body)), Error: -int32(errno), Unique: req.Unique}
		out, err := binary.Append(nil, binary.NativeEndian, answer)
		if err != nil {
			return err
		}
		if _, err := unix.Write(dev, append(out, body...)); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
}

func answerFuse(req fuseRequest, in []byte) ([]byte, unix.Errno) {
	switch req.Opcode {
	case fuseInit:
		return encode(struct {
			Major, Minor, MaxReadahead, Flags uint32
			MaxBackground, Congestion         uint16
			MaxWrite, TimeGran                uint32
			MaxPages, MapAlignment            uint16
			Unused                            [8]uint32
		}{Major: 7, Minor: 31, MaxWrite: 4096, TimeGran: 1}), 0
	case fuseLookup:
		if req.Node != fuseRoot || !bytes.Equal(in, []byte("hello\x00")) {
			return nil, unix.ENOENT
		}
		return encode(struct {
			Node, Generation, EntryValid, AttrValid uint64
			EntryNsec, AttrNsec                     uint32
			Attr                                    fuseAttr
		}{Node: fuseHello, Attr: attrOf(fuseHello)}), 0
	case fuseGetattr:
		return encode(struct {
			Valid     uint64
			Nsec, Pad uint32
			Attr      fuseAttr
		}{Attr: attrOf(req.Node)}), 0
	case fuseOpen, fuseOpendir:
		return make([]byte, 16), 0
	case fuseRead:
		return window([]byte(helloText), in), 0
	case fuseReaddir:
		return window(helloEntries(), in), 0
	case fuseRelease, fuseReleasedir, fuseFlush:
		return nil, 0
	}
	return nil, unix.ENOSYS
}

// helloEntries is the directory. The offset of each entry is where the next one starts.
func helloEntries() []byte {
	var all []byte
	for _, e := range []struct {
		node uint64
		kind uint32
		name string
	}{{fuseRoot, unix.DT_DIR, "."}, {fuseRoot, unix.DT_DIR, ".."}, {fuseHello, unix.DT_REG, "hello"}} {
		padded := (len(e.name) + 7) / 8 * 8
		all = append(all, encode(struct {
			Node, Next uint64
			Len, Kind  uint32
		}{e.node, uint64(len(all) + 24 + padded), uint32(len(e.name)), e.kind})...)
		all = append(all, e.name...)
		all = append(all, make([]byte, padded-len(e.name))...)
	}
	return all
}

// window is what a read request asks for of data.
func window(data, in []byte) []byte {
	var ask struct {
		Handle, Offset uint64
		Size           uint32
	}
	if _, err := binary.Decode(in, binary.NativeEndian, &ask); err != nil || ask.Offset >= uint64(len(data)) {
		return nil
	}
	data = data[ask.Offset:]
	return data[:min(len(data), int(ask.Size))]
}

func encode(v any) []byte {
	dt, err := binary.Append(nil, binary.NativeEndian, v)
	if err != nil {
		panic(err) // a struct of fixed size
	}
	return dt
}
