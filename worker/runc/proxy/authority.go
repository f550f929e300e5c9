package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/netip"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// Life of certificates: clocks differ, and steps take long.
const (
	backdated = time.Hour
	validity  = 30 * 24 * time.Hour
)

// maxCertificates bounds those kept for one step.
const maxCertificates = 256

// An authority makes certificates for whatever host a step connects to. Its key never leaves
// the process, and is gone with the step: a certificate that a step copied somewhere is good
// for nothing.
type authority struct {
	cert  *x509.Certificate
	key   *ecdsa.PrivateKey
	hosts *lru.Cache[string, *tls.Certificate]
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := serial()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	c := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "dbuild build step proxy"},
		NotBefore: now.Add(-backdated), NotAfter: now.Add(validity),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return nil, err
	}
	a := &authority{key: key}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	a.hosts, err = lru.New[string, *tls.Certificate](maxCertificates)
	return a, err
}

// pem is the authority's certificate as files have it.
func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// certificate is that of a host: a name or an address. All have the same key.
func (a *authority) certificate(host string) (*tls.Certificate, error) {
	if c, ok := a.hosts.Get(host); ok {
		return c, nil
	}
	serial, err := serial()
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{
		SerialNumber: serial, NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if len(host) <= 64 { // longer ones cannot be common names
		c.Subject.CommonName = host
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		c.IPAddresses = append(c.IPAddresses, ip.AsSlice())
	} else {
		c.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, a.key.Public(), a.key)
	if err != nil {
		return nil, fmt.Errorf("certificate for %s: %w", host, err)
	}
	made := &tls.Certificate{Certificate: [][]byte{der, a.cert.Raw}, PrivateKey: a.key}
	a.hosts.Add(host, made)
	return made, nil
}

func serial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}
