package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// login is what a user types to log in.
func login(host string) string {
	if host == "docker.io" {
		return `run "docker login"`
	}
	return fmt.Sprintf("run %q", "docker login "+host)
}

// A refusal says what a registry, or its token server, did not accept.
type refusal int

const (
	mayNot     refusal = iota // what we have is good, but not for this
	noLogin                   // we have nothing to show
	wrongLogin                // a user name or a password
)

// A deniedError is a registry or token server that does not accept what we have.
type deniedError struct {
	why  refusal
	text string // what it said; may be empty
}

func (e *deniedError) Error() string {
	switch e.why {
	case noLogin:
		return join("no login for it is known", e.text)
	case wrongLogin:
		return join("it does not accept the login", e.text)
	}
	return join("it does not let this client do that", e.text)
}

// cause is Error with what to do.
func (e *deniedError) cause(op, host string) string {
	s := e.Error()
	if e.why == mayNot {
		s = join(fmt.Sprintf("it does not let this client %s here", op), e.text)
		return s + "; " + login(host) + " as somebody who may"
	}
	return s + "; " + login(host)
}

// tokenRefusal reads a client's account of how it got no token.
func tokenRefusal(said string) *deniedError {
	e := &deniedError{why: wrongLogin, text: said}
	if strings.Contains(said, "anonymous token") {
		e.why = noLogin
	}
	// The address of the token server and the way there are of no use to anybody.
	if _, status, ok := strings.Cut(said, "unexpected status from "); ok {
		if i := strings.LastIndex(status, ": "); i >= 0 {
			e.text = "its token server answered " + status[i+2:]
		}
	}
	return e
}

// cause is what a statusError says, with when to come back.
func (e *statusError) cause() string {
	if e.status != http.StatusTooManyRequests {
		return e.Error()
	}
	s := join("it takes no more requests for now (429)", e.text)
	if e.quota != "" {
		s += "; " + e.quota
	}
	if e.after > 0 {
		return s + "; try again in " + e.after.Round(time.Second).String()
	}
	return s + "; try again later"
}

// quotaOf says how many requests are left, if a registry tells; see Docker Hub's headers
// ratelimit-limit and ratelimit-remaining, "100;w=21600".
func quotaOf(h http.Header) string {
	left, _, _ := strings.Cut(h.Get("Ratelimit-Remaining"), ";")
	limit, window, _ := strings.Cut(h.Get("Ratelimit-Limit"), ";w=")
	n, err := strconv.Atoi(left)
	if err != nil {
		return ""
	}
	s := fmt.Sprintf("%d", n)
	if all, err := strconv.Atoi(limit); err == nil {
		s += fmt.Sprintf(" of %d", all)
	}
	s += " requests are left"
	if sec, err := strconv.Atoi(window); err == nil && sec > 0 {
		s += " for each " + strings.TrimSuffix(strings.TrimSuffix((time.Duration(sec)*time.Second).String(), "0s"), "0m")
	}
	return s
}

// unreachable says why no connection came about, and what to look at; "" if it is none of
// what is usual.
func unreachable(host string, err error) string {
	var (
		dns     *net.DNSError
		record  tls.RecordHeaderError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	section := fmt.Sprintf(`the daemon's configuration, [registry.%q]`, host)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		// The words in brackets are Go's, which clients look for.
		return fmt.Sprintf("no host has the name %s (dial tcp: lookup %s: %s); check how it is written, and the DNS of the daemon's machine", dns.Name, dns.Name, dns.Err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "nothing listens there (connection refused); check its port, and that it runs"
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return "it speaks plain HTTP and not HTTPS; if that is meant, say http = true in " + section
	case errors.As(err, &unknown):
		return "its certificate is of an authority that is not known here; name that with ca = [FILE] in " + section
	case errors.As(err, &name):
		return "its certificate is for another name: " + name.Error() + "; check how the registry is written"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		day := func(t time.Time) string { return t.UTC().Format(time.DateOnly) }
		return fmt.Sprintf("its certificate is good from %s to %s and not now; check the clock of the daemon's machine", day(invalid.Cert.NotBefore), day(invalid.Cert.NotAfter))
	case errors.As(err, &invalid):
		return "its certificate is not valid: " + invalid.Error()
	}
	return ""
}

// secured reports whether an answer to plain HTTP says that it should have been HTTPS.
func secured(status int, body []byte) bool {
	s := strings.ToLower(string(body[:min(len(body), 512)]))
	return status == http.StatusBadRequest && (strings.Contains(s, "https server") || strings.Contains(s, "https port"))
}
