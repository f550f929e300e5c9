package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/crypto/ssh"
	"golang.org/x/net/dns/dnsmessage"
)

// outsideArg makes this program the internet, as far as the tests know it.
const outsideArg = "outside"

// outsideNames resolve to outsideAddress; nothing else does.
var outsideNames = []string{"example.com.", "www.example.com.", "raw.githubusercontent.com.", "github.com."}

// outside answers, inside the namespaces of a leaf, for the machines of the internet that
// the tests talk to: DNS, a web server with and without TLS, an ssh server that lets nobody
// in, and the server that the foreign layer's manifest names.
func outside(dir string) {
	f := &fixtures{dir: dir}
	files := http.FileServer(http.Dir(f.www()))
	ended := make(chan error)
	go func() { ended <- serveDNS() }()
	go func() { ended <- serveSSH() }()
	go func() { ended <- http.ListenAndServe(foreignAddress, files) }()
	go func() {
		ended <- http.ListenAndServeTLS(outsideAddress+":443", filepath.Join(f.tls(), "server.crt"), filepath.Join(f.tls(), "server.key"), files)
	}()
	go func() { ended <- http.ListenAndServe(outsideAddress+":80", http.HandlerFunc(exampleCom)) }()
	fmt.Println("conformance: stand-in internet:", <-ended)
	os.Exit(1)
}

func exampleCom(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	w.Header().Set("Etag", `"stand-in"`)
	fmt.Fprint(w, "<!doctype html><title>Example Domain</title>\n")
}

func serveDNS() error {
	c, err := net.ListenPacket("udp4", outsideAddress+":53")
	if err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		if answer, err := answerDNS(buf[:n]); err == nil {
			if _, err := c.WriteTo(answer, from); err != nil {
				return err
			}
		}
	}
}

func answerDNS(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil, errors.New("not a query")
	}
	q := m.Questions[0]
	answer := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionDesired: m.RecursionDesired, RecursionAvailable: true},
		Questions: m.Questions,
	}
	switch {
	case !slices.Contains(outsideNames, q.Name.String()):
		answer.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		answer.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte(net.ParseIP(outsideAddress).To4())},
		}}
	}
	return answer.Pack()
}

func serveSSH() error {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		return err
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
		return nil, errors.New("nobody is let in")
	}}
	config.AddHostKey(signer)
	l, err := net.Listen("tcp", outsideAddress+":22")
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_, _, _, _ = ssh.NewServerConn(c, config)
		}()
	}
}
