package daemon

import (
	"context"
	"strings"
	"testing"

	controlapi "github.com/moby/buildkit/api/services/control"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"golang.org/x/sync/errgroup"
)

// shows waits until a build shows a vertex whose name begins with text.
func (s *server) shows(c controlapi.ControlClient, id, text string) {
	s.t.Helper()
	st, err := c.Status(s.t.Context(), &controlapi.StatusRequest{Ref: id})
	must(s.t, err)
	for {
		msg, err := st.Recv()
		if err != nil {
			s.t.Fatalf("%s never showed %q: %v", id, text, err)
		}
		for _, v := range msg.Vertexes {
			if strings.HasPrefix(v.Name, text) {
				return
			}
		}
	}
}

func TestBuildsWait(t *testing.T) {
	s := start(t, func(c *Config) { c.MaxBuilds = 1 })
	c := s.control()
	bridge := gwpb.NewLLBBridgeClient(s.conn())
	var g errgroup.Group
	g.Go(func() error {
		_, err := c.Solve(t.Context(), &controlapi.SolveRequest{Ref: "first"})
		return err
	})
	_, err := bridge.Solve(calls(t.Context(), "first"), &gwpb.SolveRequest{Definition: marshal(t, tiny("first")), AllowResultReturn: true})
	must(t, err)

	// A second build waits and says so; one that leaves while it waits is gone.
	g.Go(func() error {
		_, err := c.Solve(t.Context(), &controlapi.SolveRequest{Ref: "second", Definition: marshal(t, tiny("second"))})
		return err
	})
	s.shows(c, "second", "waiting for other builds: 1 are running")
	impatient, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := c.Solve(impatient, &controlapi.SolveRequest{Ref: "third", Definition: marshal(t, tiny("third"))})
		left <- err
	}()
	s.shows(c, "third", "waiting for other builds")
	leave()
	if err := wait(t, left); err == nil {
		t.Error("it was built all the same")
	}
	eventually(t, "the third is gone", func() bool { return !s.running("third") })

	// Who only asks what the daemon can do does not wait.
	g.Go(func() error {
		_, err := c.Solve(t.Context(), &controlapi.SolveRequest{Ref: "probe", Internal: true})
		return err
	})
	_, err = bridge.Ping(calls(t.Context(), "probe"), &gwpb.PingRequest{})
	must(t, err)
	_, err = bridge.Return(calls(t.Context(), "probe"), &gwpb.ReturnRequest{Result: &gwpb.Result{}})
	must(t, err)
	if !s.running("second") {
		t.Error("the second did not wait")
	}

	_, err = bridge.Return(calls(t.Context(), "first"), &gwpb.ReturnRequest{Result: &gwpb.Result{}})
	must(t, err)
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
