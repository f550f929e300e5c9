package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
)

// listenAll opens the addresses of cfg, or none of them.
func listenAll(cfg Config) (_ []net.Listener, err error) {
	var out []net.Listener
	defer func() {
		if err != nil {
			for _, l := range out {
				l.Close()
			}
		}
	}()
	for _, a := range cfg.Addrs {
		ls, err := listen(a, cfg)
		if err != nil {
			return nil, err
		}
		out = append(out, ls...)
	}
	return out, nil
}

// listen opens one address; fd:// may be several sockets. A socket file that nobody
// answers on is replaced.
func listen(addr string, cfg Config) ([]net.Listener, error) {
	scheme, rest, ok := strings.Cut(addr, "://")
	if !ok {
		return nil, fmt.Errorf("address %q: want unix://PATH, tcp://HOST:PORT or fd://", addr)
	}
	var l net.Listener
	var err error
	switch scheme {
	case "unix":
		l, err = listenUnix(rest, cfg.UID, cfg.GID)
	case "tcp":
		l, err = listenTCP(rest, cfg)
	case "fd":
		return listenFD(rest)
	default:
		err = errors.New("not implemented: " + scheme + " listeners")
	}
	if err != nil {
		return nil, fmt.Errorf("address %s: %w", addr, err)
	}
	return []net.Listener{l}, nil
}

func listenUnix(path string, uid, gid *int) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("socket directory: %w", err)
	}
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, errors.New("another daemon listens there")
	}
	switch st, err := os.Lstat(path); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	case st.Mode().Type() != os.ModeSocket:
		return nil, errors.New("there is something that is not a socket")
	default:
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := permit(path, uid, gid); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// permit lets the owner and the group of a socket connect.
func permit(path string, uid, gid *int) error {
	if err := os.Chmod(path, 0o660); err != nil {
		return err
	}
	u, g := -1, -1
	if uid != nil {
		u = *uid
	}
	if gid != nil {
		g = *gid
	}
	return os.Chown(path, u, g)
}

func listenTCP(addr string, cfg Config) (net.Listener, error) {
	tc, err := serverTLS(cfg.TLS)
	if err != nil {
		return nil, err
	}
	if tc == nil && !cfg.InsecureTCP {
		return nil, errors.New("plain tcp lets anybody who can connect run programs as root; give the daemon certificates (--tls-server-cert, --tls-server-key, --tls-client-ca), or pass --insecure-tcp if that is meant")
	}
	l, err := net.Listen("tcp", addr)
	if err != nil || tc == nil {
		return l, err
	}
	return tls.NewListener(l, tc), nil
}

// serverTLS returns nil without a certificate. With an authority, clients must have a
// certificate of it.
func serverTLS(c TLSConfig) (*tls.Config, error) {
	if c == (TLSConfig{}) {
		return nil, nil
	}
	if c.Cert == "" || c.Key == "" {
		return nil, errors.New("TLS needs both a certificate and its key")
	}
	cert, err := tls.LoadX509KeyPair(c.Cert, c.Key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	tc := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}
	if c.CA == "" {
		return tc, nil
	}
	pem, err := os.ReadFile(c.CA)
	if err != nil {
		return nil, fmt.Errorf("TLS authority for clients: %w", err)
	}
	tc.ClientCAs = x509.NewCertPool()
	if !tc.ClientCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("TLS authority for clients: %s has no certificate", c.CA)
	}
	tc.ClientAuth = tls.RequireAndVerifyClientCert
	return tc, nil
}

// listenFD takes the sockets that systemd has opened: all, or those with a name or a
// number ("3" is the first).
func listenFD(which string) ([]net.Listener, error) {
	byName, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("address fd://%s: %w", which, err)
	}
	var out []net.Listener
	for name, ls := range byName {
		if which == "" || which == "*" || which == name {
			out = append(out, ls...)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("address fd://%s: systemd has passed no such socket; start the daemon from a .socket unit", which)
	}
	return out, nil
}
