package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	bksession "github.com/moby/buildkit/session"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

type (
	// A Group is the sessions on whose behalf something is done.
	Group = bksession.Group
	// A Caller is one session that is connected.
	Caller = bksession.Caller
)

// NewGroup returns the Group of the sessions with these ids, tried in this order.
func NewGroup(ids ...string) Group { return bksession.NewGroup(ids...) }

const (
	headerID   = "x-docker-expose-session-uuid"
	maxIDBytes = 256

	// arrival is how long a session of a group may take to connect: clients open their
	// session and start their build at the same time.
	arrival = 5 * time.Second
)

// ErrNoSession says that no session of a group is connected.
var ErrNoSession = errors.New("the client that started this build is not connected")

// A Manager knows the sessions that are connected.
type Manager struct {
	bk *bksession.Manager

	mu    sync.Mutex
	ids   map[string]struct{} // of connected sessions
	lanes map[string]*lanes   // by session id
}

// NewManager returns a Manager without sessions.
func NewManager() (*Manager, error) {
	bk, err := bksession.NewManager()
	if err != nil {
		return nil, err
	}
	return &Manager{bk: bk, ids: map[string]struct{}{}, lanes: map[string]*lanes{}}, nil
}

// BuildKit returns the underlying manager, for packages that speak to it directly.
func (m *Manager) BuildKit() *bksession.Manager { return m.bk }

// Handle serves a session, or a lane of one, on a stream of the control API, until the
// client leaves, its health check fails, or ctx ends.
func (m *Manager) Handle(ctx context.Context, stream Stream) error {
	md, _ := metadata.FromIncomingContext(stream.Context())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn := newConn(stream, cancel)
	if id := header(md, LaneHeader); id != "" && len(id) <= maxIDBytes {
		return m.handleLane(ctx, conn, id)
	}
	return m.HandleConn(ctx, conn, md)
}

// HandleConn serves a session on conn, which carries HTTP/2 with prior knowledge; headers
// are those of the request that opened it. It closes conn.
func (m *Manager) HandleConn(ctx context.Context, conn net.Conn, headers map[string][]string) error {
	defer conn.Close()
	id := header(headers, headerID)
	switch {
	case id == "" || len(id) > maxIDBytes || strings.Contains(id, ":"):
		return status.Errorf(codes.InvalidArgument, "invalid session id %.40q", id)
	case !m.add(id):
		return status.Errorf(codes.AlreadyExists, "session %s already exists", id)
	}
	defer m.remove(id)
	return m.bk.HandleConn(ctx, conn, headers)
}

func header(h map[string][]string, key string) string {
	for k, v := range h {
		if strings.EqualFold(k, key) && len(v) > 0 {
			return v[0]
		}
	}
	return ""
}

func (m *Manager) add(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.ids[id]; ok {
		return false
	}
	m.ids[id] = struct{}{}
	return true
}

func (m *Manager) remove(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.ids, id)
	m.forgetLanes(id)
}

// Get returns the session with the given id, waiting for it to connect for a few seconds
// at most. A prefix before a colon, by which clients tell contexts apart, is ignored.
func (m *Manager) Get(ctx context.Context, id string) (Caller, error) {
	wait, cancel := context.WithTimeout(ctx, arrival)
	defer cancel()
	c, err := m.bk.Get(wait, id, false)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, ErrNoSession
	}
	return c, nil
}

// Any calls fn with one connected session of g after the other until it succeeds. The
// context given to fn also ends when that session does. If all fail it returns the error
// of the last session that was connected, or ErrNoSession.
func (m *Manager) Any(ctx context.Context, g Group, fn func(ctx context.Context, id string, c Caller) error) error {
	last := ErrNoSession
	for _, id := range bksession.AllSessionIDs(g) {
		c, err := m.Get(ctx, id)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			continue
		}
		if last = m.With(ctx, c, func(ctx context.Context) error { return fn(ctx, id, c) }); last == nil {
			return nil
		}
		if ctx.Err() != nil {
			return last
		}
	}
	return last
}

// With calls fn with a context that also ends when the session of c does; an error that
// comes of that says so.
func (m *Manager) With(ctx context.Context, c Caller, fn func(context.Context) error) error {
	// The context made by c stays registered with the session until it ends itself.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sctx := c.Context(ctx)
	err := fn(sctx)
	if err != nil && sctx.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("the client left during the build: %w", err)
	}
	return err
}
