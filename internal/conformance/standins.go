package main

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

//go:embed standins
var standinFiles embed.FS

func standin(name string) []byte {
	dt, err := fs.ReadFile(standinFiles, "standins/"+name)
	if err != nil {
		panic(err) // embedded
	}
	return dt
}

// foreignAddress serves the layer that a manifest has elsewhere.
const foreignAddress = "127.0.0.1:5999"

// standins are the images that the tests ask for, made from what is installed here.
// They have what the tests look at and no more; foreign is the file that is to be served
// at foreignAddress.
func standins(busyboxProgram string, authority []byte) (images []image, foreign []byte, err error) {
	busybox := map[string][]byte{}
	for _, variant := range []string{"glibc", "musl", "uclibc"} {
		if busybox[variant], err = busyboxLayer(busyboxProgram, variant); err != nil {
			return nil, nil, err
		}
	}
	alpine, err := alpineLayer(busyboxProgram, authority)
	if err != nil {
		return nil, nil, err
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, nil, err
	}
	single := func(name string, mode int64, data []byte) []byte {
		l := newLayer()
		l.file(name, data, mode)
		dt, e := l.bytes()
		err = e
		return dt
	}
	foreign = single("foreign.txt", 0o644, []byte("foreign\n"))
	shell := []string{"sh"}
	images = []image{
		{Name: "library/busybox:latest", Layers: [][]byte{busybox["glibc"]}, Cmd: shell},
		{Name: "library/busybox:stable-musl", Layers: [][]byte{busybox["musl"]}, Cmd: shell},
		{Name: "library/busybox:1.34.1-uclibc", Layers: [][]byte{busybox["uclibc"]}, Cmd: shell},
		{Name: "library/busybox_amd64:latest", Layers: [][]byte{busybox["glibc"]}, Cmd: shell},
		{Name: "library/alpine:latest", Layers: [][]byte{alpine}, Cmd: []string{"/bin/sh"}},
		{Name: "amd64/debian:bullseye-20230109-slim", Layers: [][]byte{busybox["glibc"]}, Cmd: []string{"bash"}},
		{Name: "tonistiigi/test:nolayers"},
		{Name: "tonistiigi/hellofs:latest", Layers: [][]byte{single(hellofsName, 0o755, self)}},
		{Name: "cpuguy83/buildkit-foreign:latest", Layers: [][]byte{foreign, single("regular.txt", 0o644, []byte("regular\n"))}, Foreign: "http://" + foreignAddress + "/foreign.tar"},
		{Name: "docker/buildkit-syft-scanner:stable-1", Layers: [][]byte{busybox["glibc"], single("bin/syft-scanner", 0o755, standin("scan"))}, Entrypoint: []string{"/bin/syft-scanner"}},
	}
	return images, foreign, err
}

// applets are the paths of busybox's programs, without the first slash.
func applets(busybox string) ([]string, error) {
	out, err := exec.Command(busybox, "--list-full").Output()
	if err != nil {
		return nil, fmt.Errorf("applets of busybox: %w", err)
	}
	return slices.DeleteFunc(strings.Fields(string(out)), func(a string) bool {
		return a == "linuxrc" || a == "sbin/init" || a == "bin/busybox"
	}), nil
}

// accounts are the files that name users.
func (l *layer) accounts() {
	l.file("etc/passwd", standin("passwd"), 0o644)
	l.file("etc/group", standin("group"), 0o644)
	l.text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n")
	l.dir("root", 0o700, 0)
	l.dir("tmp", 0o1777, 0)
}

// busyboxLayer has one file with many names in /bin, as the image of that name.
func busyboxLayer(busybox, variant string) ([]byte, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	names, err := applets(busybox)
	if err != nil {
		return nil, err
	}
	l := newLayer()
	l.file("bin/[", program, 0o755)
	for _, n := range append(names, "bin/busybox") {
		l.hardlink("bin/"+path.Base(n), "bin/[")
	}
	l.accounts()
	l.dir("home", 0o755, 65534)
	l.dirs("dev", "etc/network", "usr/bin", "var/spool/mail")
	l.dir("usr/sbin", 0o755, 1)
	l.dir("var/www", 0o755, 33)
	l.symlink("usr/bin/env", "../../bin/env")
	l.text("lib/.variant", variant+"\n")
	return l.bytes()
}

// packages is what apk installs in the stand-in for alpine: programs of this machine.
var packages = map[string][]string{
	"curl":                   {"/usr/bin/curl"},
	"git":                    {"/usr/bin/git"},
	"openssh":                {"/usr/bin/ssh", "/usr/bin/ssh-add", "/usr/bin/ssh-agent", "/usr/bin/ssh-keygen", "/usr/bin/ssh-keyscan"},
	"openssh-client-default": {"/usr/bin/ssh", "/usr/bin/ssh-add", "/usr/bin/ssh-agent", "/usr/bin/ssh-keygen", "/usr/bin/ssh-keyscan"},
	"e2fsprogs":              {"/sbin/mkfs.ext4", "/sbin/mke2fs"},
	"fuse":                   {},
}

// alpineLayer has busybox's programs where alpine has them, and an apk with the packages
// that the tests install.
func alpineLayer(busybox string, authority []byte) ([]byte, error) {
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	names, err := applets(busybox)
	if err != nil {
		return nil, err
	}
	l := newLayer()
	l.file("bin/busybox", program, 0o755)
	for _, n := range names {
		l.dirs(path.Dir(n))
		l.symlink(n, "/bin/busybox")
	}
	l.accounts()
	l.text("etc/alpine-release", "3.18.0\n")
	l.text("etc/os-release", "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.18.0\nPRETTY_NAME=\"Stand-in for Alpine Linux\"\n")
	l.text("etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost\n")
	l.file("etc/ssl/certs/ca-certificates.crt", authority, 0o644)
	l.symlink("etc/ssl/cert.pem", "certs/ca-certificates.crt")
	l.text("lib/apk/db/installed", "P:busybox\nV:1.36.0-r9\nA:x86_64\nL:GPL-2.0-only\n\n")
	l.dirs("dev", "home", "media", "mnt", "opt", "proc", "run", "srv", "sys", "usr/local/bin", "usr/share", "var/cache/apk", "var/log")
	l.dir("var/tmp", 0o1777, 0)
	l.symlink("var/run", "../run")
	l.file("sbin/apk", standin("apk"), 0o755)
	for _, name := range slices.Sorted(maps.Keys(packages)) {
		var list strings.Builder
		for _, p := range packages[name] {
			at, err := l.program(p)
			if err != nil {
				return nil, err
			}
			fmt.Fprintln(&list, at, p)
		}
		l.text("usr/lib/standin/"+name+".list", list.String())
	}
	return l.bytes()
}

// library is a line of ldd's.
var library = regexp.MustCompile(`(/\S+) \(0x`)

// program adds a program of this machine with its libraries and returns where it is.
func (l *layer) program(name string) (string, error) {
	real, err := filepath.EvalSymlinks(name)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(real)
	if err != nil {
		return "", err
	}
	at := "usr/lib/standin/bin/" + path.Base(name)
	l.file(at, data, 0o755)
	out, err := exec.Command("ldd", real).Output()
	if err != nil && !bytes.Contains(out, []byte("not a dynamic")) {
		return "", fmt.Errorf("ldd %s: %w", real, err)
	}
	for _, m := range library.FindAllSubmatch(out, -1) {
		data, err := os.ReadFile(string(m[1]))
		if err != nil {
			return "", err
		}
		l.file(string(m[1][1:]), data, 0o755)
	}
	return "/" + at, nil
}
