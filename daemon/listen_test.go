package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
)

func TestListen(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "new", "s")
	// A socket that a daemon which was killed left behind.
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	dead.SetUnlinkOnClose(false)
	must(t, dead.Close())
	l, err := listen("unix://"+path, Config{})
	must(t, err)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("got %v, %v", st, err)
	}
	if _, err := listen("unix://"+path, Config{}); err == nil || !strings.Contains(err.Error(), path+": another daemon listens there") {
		t.Errorf("got %v", err)
	}
	must(t, l[0].Close())

	// What is no socket is somebody's file.
	precious := filepath.Join(dir, "file")
	must(t, os.WriteFile(precious, []byte("x"), 0o600))
	for _, path := range []string{precious, dir} {
		if _, err := listen("unix://"+path, Config{}); err == nil || !strings.Contains(err.Error(), "not a socket") {
			t.Errorf("%s: got %v", path, err)
		}
	}
	if b, err := os.ReadFile(precious); err != nil || string(b) != "x" {
		t.Errorf("the file is %q, %v", b, err)
	}

	for addr, want := range map[string]string{
		"/run/x.sock": "want unix://PATH", "fd://": "systemd", "": "want unix://PATH", "tcp://127.0.0.1:0": "--insecure-tcp", "ftp://x": "not implemented: ftp listeners",
	} {
		if _, err := listen(addr, Config{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v", addr, err)
		}
	}
	l, err = listen("tcp://127.0.0.1:0", Config{InsecureTCP: true})
	must(t, err)
	must(t, l[0].Close())
}

// authority makes certificates, as PEM files in dir.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir string) *authority {
	a := &authority{t: t, dir: dir}
	a.cert, a.key = a.make("ca", nil)
	return a
}

func (a *authority) make(name string, parent *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(a.t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{{127, 0, 0, 1}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: parent == nil, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	signer, by := c, key
	if parent != nil {
		signer, by = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, signer, &key.PublicKey, by)
	must(a.t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(a.t, err)
	must(a.t, os.WriteFile(a.path(name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(a.t, os.WriteFile(a.path(name+"-key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	c, err = x509.ParseCertificate(der)
	must(a.t, err)
	return c, key
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name+".pem") }

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ours, other := newAuthority(t, dir), newAuthority(t, t.TempDir())
	ours.make("server", ours)
	ours.make("client", ours)
	other.make("client", other)
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	addr := "tcp://" + probe.Addr().String()
	must(t, probe.Close())
	start(t, func(c *Config) {
		c.Addrs = []string{addr}
		c.TLS = TLSConfig{Cert: ours.path("server"), Key: ours.path("server-key"), CA: ours.path("ca")}
	})
	for name, test := range map[string]struct {
		opts []client.ClientOpt
		ok   bool
	}{
		"a client of the authority": {[]client.ClientOpt{client.WithServerConfig("127.0.0.1", ours.path("ca")), client.WithCredentials(ours.path("client"), ours.path("client-key"))}, true},
		"a client of another":       {[]client.ClientOpt{client.WithServerConfig("127.0.0.1", ours.path("ca")), client.WithCredentials(other.path("client"), other.path("client-key"))}, false},
		"no certificate":            {[]client.ClientOpt{client.WithServerConfig("127.0.0.1", ours.path("ca"))}, false},
		"no TLS":                    {nil, false},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		c, err := client.New(ctx, addr, test.opts...)
		must(t, err)
		_, err = c.Info(ctx)
		if (err == nil) != test.ok {
			t.Errorf("%s: got %v", name, err)
		}
		c.Close()
		cancel()
	}
}

func TestServerTLS(t *testing.T) {
	a := newAuthority(t, t.TempDir())
	for _, test := range []struct {
		c    TLSConfig
		want string
	}{
		{TLSConfig{Cert: a.path("ca")}, "both a certificate and its key"},
		{TLSConfig{CA: a.path("ca")}, "both a certificate and its key"},
		{TLSConfig{Cert: a.path("none"), Key: a.path("ca-key")}, "TLS certificate"},
		{TLSConfig{Cert: a.path("ca"), Key: a.path("ca-key"), CA: a.path("ca-key")}, "has no certificate"},
	} {
		if _, err := serverTLS(test.c); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%+v: got %v", test.c, err)
		}
	}
}
