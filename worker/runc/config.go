package runc

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/dbuild/dbuild/worker/runc/network"
)

// Config says how containers are made. Only Root is required.
type Config struct {
	// Root is a directory for the executor's own files. No two executors share one.
	Root string

	// Runtime is the path of a command such as runc or crun that makes the containers;
	// if empty they are made with the libcontainer that is linked in.
	Runtime string

	// Network says what UNSET gives a step, and DNS what it is told about names.
	Network network.Config
	DNS     DNS

	// CgroupParent is the cgroup of steps that ask for none: a path, or the name of a
	// systemd slice. Default: one named after Root.
	CgroupParent string
	PidsLimit    int64 // processes and threads a step; 0 means 32768, negative no limit
	OOMScoreAdj  *int  // of steps; nil: as the daemon's

	// SeccompProfile is a profile in docker's JSON format; docker's default if empty.
	SeccompProfile string
	// AllowNoSeccomp lets steps run without seccomp if the program was built without it.
	AllowNoSeccomp bool
	// AppArmorProfile is the name of a profile loaded in the kernel; none if empty.
	AppArmorProfile string
	// AllowNewPrivileges lets setuid programs such as sudo work for steps that do not run
	// as root, which no_new_privs else prevents.
	AllowNewPrivileges bool
}

// DNS overrides what steps find in /etc/resolv.conf; lists that are empty come from the
// daemon's own.
type DNS struct {
	Nameservers   []string
	Options       []string
	SearchDomains []string
}

func (c *Config) check() error {
	if c.Root == "" {
		return errors.New("executor: no state directory")
	}
	root, err := filepath.Abs(c.Root)
	if err != nil {
		return fmt.Errorf("executor: %w", err)
	}
	c.Root = root
	return nil
}
