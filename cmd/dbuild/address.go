package main

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// places are the paths a daemon uses unless told otherwise.
type places struct {
	state  string // directory of its state
	socket string // unix socket on which it listens
}

// defaultPlaces returns the system's places for root, and the user's for others.
// DBUILD_ROOT moves both to one directory.
func defaultPlaces(uid int, lookup func(string) (string, bool)) places {
	if root, ok := lookup("DBUILD_ROOT"); ok && filepath.IsAbs(root) {
		return places{state: root, socket: filepath.Join(root, "dbuildd.sock")}
	}
	if uid == 0 {
		return places{state: "/var/lib/dbuild", socket: "/run/dbuild/dbuildd.sock"}
	}
	get := func(name, otherwise string) string {
		if v, ok := lookup(name); ok && filepath.IsAbs(v) {
			return v
		}
		return otherwise
	}
	data := get("XDG_DATA_HOME", filepath.Join(get("HOME", "/"), ".local", "share"))
	p := places{state: filepath.Join(data, "dbuild")}
	runtime := get("XDG_RUNTIME_DIR", "")
	if user := "/run/user/" + strconv.Itoa(uid); runtime == "" {
		if fi, err := os.Stat(user); err == nil && fi.IsDir() {
			runtime = user
		} else {
			runtime = filepath.Join(p.state, "run")
		}
	}
	p.socket = filepath.Join(runtime, "dbuild", "dbuildd.sock")
	return p
}

func (a *app) places() places {
	if a.at != nil {
		return *a.at
	}
	return defaultPlaces(os.Getuid(), a.lookup)
}

// An address is where a daemon is.
type address struct {
	url  string
	from string // what it was taken from: a flag, a variable; empty for the default
}

// isDefault tells whether nobody chose the address, so that a daemon may be started there.
func (a address) isDefault() bool { return a.from == "" }

// chooseAddress returns the first of: the flag, DBUILD_HOST, BUILDKIT_HOST, the default.
func chooseAddress(flag string, lookup func(string) (string, bool), p places) address {
	if flag != "" {
		return address{complete(flag), "--addr"}
	}
	for _, name := range []string{"DBUILD_HOST", "BUILDKIT_HOST"} {
		if v, ok := lookup(name); ok && v != "" {
			return address{complete(v), name}
		}
	}
	return address{url: "unix://" + p.socket}
}

// schemes are the ways to reach a daemon.
var schemes = []string{"docker-container", "kube-pod", "nerdctl-container", "podman-container", "ssh", "tcp", "unix"}

// check says what is wrong with an address that cannot be one.
func (a address) check() error {
	scheme, rest, ok := strings.Cut(a.url, "://")
	if !ok || !slices.Contains(schemes, scheme) || rest == "" {
		return usagef("%s %q is not an address, such as unix:///run/dbuild/dbuildd.sock; there are %s", a.from, a.url, strings.Join(schemes, ", "))
	}
	return nil
}

// complete makes an address of a path.
func complete(addr string) string {
	if strings.HasPrefix(addr, "/") {
		return "unix://" + addr
	}
	return addr
}
