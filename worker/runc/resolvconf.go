package runc

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
)

const (
	hostResolvConf = "/etc/resolv.conf"
	// systemdResolvConf has the real servers where the host's file names systemd's local one.
	systemdResolvConf = "/run/systemd/resolve/resolv.conf"
)

// defaultNameservers are docker's, for hosts whose own cannot be reached from a sandbox.
var defaultNameservers = []string{"8.8.8.8", "8.8.4.4"}

// resolvConf keeps the two files that steps find as /etc/resolv.conf: with the host's
// network they can use the servers that listen on it, else not.
type resolvConf struct {
	path string // of the sandboxes' file; the other has ".host" added
	dns  DNS

	mu     sync.Mutex
	source [2]os.FileInfo // under mu: what the file was made from
}

// file returns the path of an up to date file.
func (r *resolvConf) file(hostNetwork bool) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	path, i := r.path, 0
	if hostNetwork {
		path, i = r.path+".host", 1
	}
	info, err := os.Stat(hostResolvConf)
	if err == nil && r.source[i] != nil && os.SameFile(info, r.source[i]) && info.ModTime().Equal(r.source[i].ModTime()) && info.Size() == r.source[i].Size() {
		return path, nil
	}
	text, err := os.ReadFile(hostResolvConf)
	if err != nil && !os.IsNotExist(err) {
		return "", err
	}
	content := r.dns.apply(text)
	if !hostNetwork {
		if len(reachable(content)) == 0 && len(r.dns.Nameservers) == 0 {
			if alt, err := os.ReadFile(systemdResolvConf); err == nil {
				content = r.dns.apply(alt)
			}
		}
		content = filterLoopback(content)
	}
	if err := writeShared(path, content); err != nil {
		return "", err
	}
	r.source[i] = info
	return path, nil
}

// forget makes the next call of file write it again.
func (r *resolvConf) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.source = [2]os.FileInfo{}
}

// apply returns the text with the lines that are overridden replaced.
func (d DNS) apply(text []byte) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			if len(d.Nameservers) > 0 {
				continue
			}
		case "search", "domain":
			if len(d.SearchDomains) > 0 {
				continue
			}
		case "options":
			if len(d.Options) > 0 {
				continue
			}
		}
		b.WriteString(strings.TrimRight(line, "\n") + "\n")
	}
	for _, s := range d.Nameservers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	if len(d.SearchDomains) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(d.SearchDomains, " "))
	}
	if len(d.Options) > 0 {
		fmt.Fprintf(&b, "options %s\n", strings.Join(d.Options, " "))
	}
	return b.Bytes()
}

// resolver looks names up as steps would, for whoever does so for them.
func (d DNS) resolver() *net.Resolver {
	if len(d.Nameservers) == 0 {
		return net.DefaultResolver
	}
	var asked atomic.Uint32
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		server := d.Nameservers[int(asked.Add(1)-1)%len(d.Nameservers)]
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(server, "53"))
	}}
}

// reachable returns the name servers that are not on the host's loopback.
func reachable(text []byte) []string {
	var list []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "nameserver" && !isLoopback(f[1]) {
			list = append(list, f[1])
		}
	}
	return list
}

// filterLoopback removes name servers that a sandbox cannot reach, and adds the default
// ones if none is left.
func filterLoopback(text []byte) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "nameserver" && isLoopback(f[1]) {
			continue
		}
		b.WriteString(line)
	}
	if len(reachable(text)) == 0 {
		for _, s := range defaultNameservers {
			fmt.Fprintf(&b, "nameserver %s\n", s)
		}
	}
	return b.Bytes()
}

func isLoopback(server string) bool {
	ip, err := netip.ParseAddr(server)
	return err == nil && ip.IsLoopback()
}
