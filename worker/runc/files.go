package runc

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dbuild/dbuild/worker/runc/network"
	"github.com/dbuild/dbuild/worker/runc/spec"
)

// stepFiles are the files made for one step.
type stepFiles struct {
	dir        string // of the step's own, empty if it needs none
	hosts      string
	resolvConf string
}

// stepFiles writes what a step needs. Most steps share all their files.
func (e *Executor) stepFiles(p *Process, ns *network.Namespace) (stepFiles, error) {
	var f stepFiles
	var err error
	if f.resolvConf, err = e.resolv.file(ns.Host); err != nil {
		return f, err
	}
	shared := p.Hostname == "" && len(p.ExtraHosts) == 0
	if shared {
		f.hosts = filepath.Join(e.config.Root, "hosts")
		if err := e.sharedHosts(f.hosts); err != nil {
			return f, err
		}
	}
	_, needsBundle := e.runtime.(*command)
	if shared && !needsBundle {
		return f, nil
	}
	f.dir = e.stepDir(p.ID)
	if err := os.MkdirAll(filepath.Dir(f.dir), 0o700); err != nil {
		return f, err
	}
	if err := os.Mkdir(f.dir, 0o700); err != nil {
		return f, fmt.Errorf("container %s: %w", p.ID, err)
	}
	if !shared {
		f.hosts = filepath.Join(f.dir, "hosts")
		if err := writeShared(f.hosts, hosts(p.Hostname, p.ExtraHosts)); err != nil {
			f.remove()
			return f, err
		}
	}
	return f, nil
}

func (f *stepFiles) remove() {
	if f.dir != "" {
		_ = os.RemoveAll(f.dir) // what is left is removed by the next Sweep
	}
}

func (e *Executor) stepDir(id string) string { return filepath.Join(e.config.Root, "steps", id) }

// removeFiles removes all that the executor keeps under its root.
func (e *Executor) removeFiles() error {
	for _, name := range []string{"steps", "hosts", "resolv.conf", "resolv.conf.host", "containers", "runtime", "proxied"} {
		if err := os.RemoveAll(filepath.Join(e.config.Root, name)); err != nil {
			return err
		}
	}
	e.resolv.forget()
	return nil
}

// sharedHosts makes the file of all steps that ask for nothing special.
func (e *Executor) sharedHosts(path string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	return writeShared(path, hosts("", nil))
}

// hosts is the content of /etc/hosts.
func hosts(hostname string, extra []HostIP) []byte {
	if hostname == "" {
		hostname = spec.DefaultHostname
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n::1\tlocalhost ip6-localhost ip6-loopback\n", hostname)
	for _, h := range extra {
		// A name cannot smuggle in another line.
		fmt.Fprintf(&b, "%s\t%s\n", h.IP, strings.Join(strings.Fields(h.Host), " "))
	}
	return b.Bytes()
}

// writeShared writes a file that steps of any user can read, at once: a step may be looking
// at the old one.
func writeShared(path string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".tmp-")
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	if cerr := tmp.Chmod(0o644); err == nil {
		err = cerr
	}
	if cerr := tmp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(tmp.Name())
	}
	return err
}
