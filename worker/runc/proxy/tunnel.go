package proxy

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// handshakeTimeout bounds how long a step may take to begin with TLS.
const handshakeTimeout = 30 * time.Second

// connect opens a tunnel of the step: what is in it is served like everything else.
func (s *Server) connect(w http.ResponseWriter, r *http.Request) {
	target := r.Host
	host := (&url.URL{Host: target}).Hostname()
	if host == "" || targetOf(r.Context()) != "" {
		http.Error(w, "CONNECT needs a host and a port", http.StatusBadRequest)
		return
	}
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		http.Error(w, "a tunnel needs HTTP/1.1", http.StatusHTTPVersionNotSupported)
		return
	}
	raw, buffered, err := hijacker.Hijack()
	if err != nil {
		return
	}
	// A client may begin before it is told that it can.
	conn := &tunnelConn{Conn: raw, early: io.MultiReader(io.LimitReader(buffered, int64(buffered.Reader.Buffered())), raw), target: target}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection Established\r\n\r\n"); err != nil {
		conn.Close()
		return
	}
	ctx, cancel := context.WithTimeout(s.life, handshakeTimeout)
	defer cancel()
	t := tls.Server(conn, s.tlsConfig(host))
	if err := t.HandshakeContext(ctx); err != nil {
		s.opt.Record.add(Fetch{Method: http.MethodConnect, URL: "https://" + withoutPort(target, "443"), Reason: ReasonTunnel})
		conn.Close()
		return
	}
	if !s.tunnels.give(ctx, t) {
		t.Close()
	}
}

// tlsConfig is how the proxy answers for a host, or whatever the client calls it.
func (s *Server) tlsConfig(host string) *tls.Config {
	return &tls.Config{
		NextProtos: []string{"h2", "http/1.1"},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName != "" {
				return s.authority.certificate(hello.ServerName)
			}
			return s.authority.certificate(host)
		},
	}
}

// A tunnelConn is a connection of the step to a target of its choice.
type tunnelConn struct {
	net.Conn
	early  io.Reader
	target string // host and port
}

// Read implements net.Conn.
func (c *tunnelConn) Read(p []byte) (int, error) { return c.early.Read(p) }

type targetKey struct{}

// withTarget has requests know in which tunnel they came: net/http has no other way to say
// something about a connection.
func withTarget(ctx context.Context, c net.Conn) context.Context {
	if t, ok := c.(*tls.Conn); ok {
		if c, ok := t.NetConn().(*tunnelConn); ok {
			return context.WithValue(ctx, targetKey{}, c.target)
		}
	}
	return ctx
}

// targetOf is where the tunnel leads that a request came in; "" if it came in none.
func targetOf(ctx context.Context) string {
	t, _ := ctx.Value(targetKey{}).(string)
	return t
}

// tunnels is the net.Listener of what is in tunnels.
type tunnels struct {
	addr  net.Addr
	ready chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newTunnels(addr net.Addr) tunnels {
	return tunnels{addr: addr, ready: make(chan net.Conn), done: make(chan struct{})}
}

func (t *tunnels) give(ctx context.Context, c net.Conn) bool {
	select {
	case t.ready <- c:
		return true
	case <-t.done:
	case <-ctx.Done():
	}
	return false
}

// Accept implements net.Listener.
func (t *tunnels) Accept() (net.Conn, error) {
	select {
	case c := <-t.ready:
		return c, nil
	case <-t.done:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (t *tunnels) Close() error {
	t.once.Do(func() { close(t.done) })
	return nil
}

// Addr implements net.Listener.
func (t *tunnels) Addr() net.Addr { return t.addr }
