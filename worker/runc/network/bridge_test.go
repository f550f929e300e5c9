package network

import (
	"testing"

	"github.com/moby/buildkit/solver/pb"
)

// The devices of a daemon that was killed go away late; the next one must not need their
// names.
func TestNamesAreTaken(t *testing.T) {
	root := t.TempDir()
	acquire := func(n *Network) *Namespace {
		t.Helper()
		ns, err := n.Acquire(t.Context(), pb.NetMode_UNSET, "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(ns.Release)
		return ns
	}
	first, _, err := New(root, Config{Mode: Bridge, Pool: -1})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		acquire(first)
	}
	second, _, err := New(root, Config{Mode: Bridge, Pool: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := second.Close(); err != nil {
			t.Error(err)
		}
	})
	acquire(second)
}
