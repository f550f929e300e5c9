package session

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// LaneHeader is the header that makes a stream a lane; its value is the session's id. The
// number in it changes with every change of what goes over a lane: a daemon that does not
// know it asks the session instead.
const LaneHeader = "x-dbuild-lane-1"

// MaxFrame is the size of a frame that is accepted, in bytes.
const MaxFrame = 4 << 20

// A LaneRequest says what of which directory is wanted.
type LaneRequest struct {
	Name             string
	Include, Exclude []string `json:",omitempty"`
	Follow           []string `json:",omitempty"`
}

// A LaneReply says whether the directory will be sent.
type LaneReply struct {
	Error   string `json:",omitempty"` // why not
	Missing bool   `json:",omitempty"` // the client offers no such directory
}

// AppendFrame appends v as a frame.
func AppendFrame(b []byte, v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return b, err
	}
	return append(binary.AppendUvarint(b, uint64(len(data))), data...), nil
}

// ReadFrame reads a frame into v. The error is io.EOF if there is none.
func ReadFrame(r *bufio.Reader, v any) error {
	n, err := ReadFrameSize(r)
	if err != nil {
		return err
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// ReadFrameSize reads how many bytes of a frame follow. The error is io.EOF if nothing
// more comes.
func ReadFrameSize(r *bufio.Reader) (int, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return 0, err
	}
	if n > MaxFrame {
		return 0, fmt.Errorf("a frame of %d bytes is too large", n)
	}
	return int(n), nil
}

const (
	maxLanes = 8 // of one session that wait for a request
	// laneWait is how long to wait for the lane that a client opens when another gets busy.
	laneWait = time.Second
)

// lanes are those of one session.
type lanes struct {
	open int // guarded by Manager.mu
	idle chan net.Conn
}

// handleLane keeps a lane of the session id until it was used or the client leaves.
func (m *Manager) handleLane(ctx context.Context, conn net.Conn, id string) error {
	l := m.addLane(id)
	defer m.dropLane(id, l)
	select {
	case l.idle <- conn:
	default:
		return status.Errorf(codes.ResourceExhausted, "session %.40q has %d idle lanes", id, maxLanes)
	}
	<-ctx.Done()
	return nil
}

func (m *Manager) addLane(id string) *lanes {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.lanes[id]
	if l == nil {
		l = &lanes{idle: make(chan net.Conn, maxLanes)}
		m.lanes[id] = l
	}
	l.open++
	return l
}

func (m *Manager) dropLane(id string, l *lanes) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l.open--
	m.forgetLanes(id)
}

// forgetLanes drops what is known of a session's lanes when both have gone. As long as the
// session is there, its client will open a lane if it has opened one before. m.mu is held.
func (m *Manager) forgetLanes(id string) {
	if _, connected := m.ids[id]; !connected && m.lanes[id] != nil && m.lanes[id].open == 0 {
		delete(m.lanes, id)
	}
}

// Lane returns a lane of a session, for one transfer, or nil if its client opens none. The
// caller closes it, which also ends reads and writes.
func (m *Manager) Lane(ctx context.Context, id string) net.Conn {
	m.mu.Lock()
	l := m.lanes[id]
	m.mu.Unlock()
	if l == nil {
		return nil
	}
	wait := time.NewTimer(laneWait)
	defer wait.Stop()
	select {
	case c := <-l.idle:
		return c
	case <-wait.C:
	case <-ctx.Done():
	}
	return nil
}
