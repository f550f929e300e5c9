package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/contextfs"
	lane "github.com/dbuild/dbuild/session"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
)

// A laneServer sends directories to a daemon of ours beside the session, which is faster.
// A daemon that finds no lane asks the session.
type laneServer struct {
	dial session.Dialer
	id   string // of the session
	dirs map[string]*contextfs.FS
	wg   sync.WaitGroup
}

// openLanes makes the session of opt, if the daemon is ours, and serves its directories on
// lanes until stop is called.
func openLanes(ctx context.Context, d *daemonConn, opt *client.SolveOpt) (stop func(), err error) {
	dirs := map[string]*contextfs.FS{}
	for name, m := range opt.LocalMounts {
		if f, ok := m.(*contextfs.FS); ok && d.ours() {
			dirs[name] = f
		}
	}
	if len(dirs) == 0 {
		return func() {}, nil
	}
	if opt.SharedSession, err = session.NewSession(ctx, opt.SharedKey); err != nil {
		return nil, err
	}
	return serveLanes(ctx, d.Dialer(), opt.SharedSession.ID(), dirs), nil
}

// serveLanes opens a lane of the session id and serves until stop is called. What is asked
// of the daemon afterwards on the same connection finds the lane.
func serveLanes(ctx context.Context, dial session.Dialer, id string, dirs map[string]*contextfs.FS) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	s := &laneServer{dial: dial, id: id, dirs: dirs}
	if conn, err := s.open(ctx); err == nil {
		s.wg.Go(func() { s.run(ctx, conn) })
	}
	return func() {
		cancel()
		s.wg.Wait()
	}
}

// open opens a lane. That the daemon knows none shows when it is read.
func (s *laneServer) open(ctx context.Context) (net.Conn, error) {
	return s.dial(ctx, "", map[string][]string{lane.LaneHeader: {s.id}})
}

// run keeps one lane waiting, while others are in use.
func (s *laneServer) run(ctx context.Context, conn net.Conn) {
	for conn != nil {
		in := bufio.NewReader(conn)
		var req lane.LaneRequest
		if err := lane.ReadFrame(in, &req); err != nil {
			conn.Close()
			return // the build has ended, or the daemon
		}
		busy := conn
		s.wg.Go(func() {
			defer busy.Close()
			_ = s.serve(ctx, busy, in, req) // the daemon tells the user
		})
		conn, _ = s.open(ctx) // if not, the daemon asks the session
	}
}

// serve answers one request.
func (s *laneServer) serve(ctx context.Context, conn net.Conn, in *bufio.Reader, req lane.LaneRequest) error {
	dir, ok := s.dirs[req.Name]
	reply := lane.LaneReply{}
	if !ok {
		reply = lane.LaneReply{Missing: true, Error: fmt.Sprintf("no access allowed to dir %q", req.Name)}
	}
	b, err := lane.AppendFrame(nil, reply)
	if err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil || !ok {
		return err
	}
	return dir.Send(ctx, conn, in, contextfs.Patterns{Include: req.Include, Exclude: req.Exclude, Follow: req.Follow})
}
