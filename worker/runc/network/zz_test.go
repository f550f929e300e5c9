package network

import (
	"fmt"
	"testing"
	"time"
)

func TestZZ(t *testing.T) {
	n, _, err := New(t.TempDir(), Config{Mode: Bridge, Pool: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	b := n.provider.(*bridge)
	var a, c, r time.Duration
	const N = 50
	for range N {
		s := time.Now()
		ns, err := newNamespace()
		if err != nil {
			t.Fatal(err)
		}
		a += time.Since(s)
		s = time.Now()
		addr, _ := b.allocate()
		if err := b.connect(ns, addr); err != nil {
			t.Fatal(err)
		}
		c += time.Since(s)
		s = time.Now()
		ns.close()
		r += time.Since(s)
		time.Sleep(20*time.Millisecond)
	}
	fmt.Println("namespace", a/N, "connect", c/N, "close", r/N)
}
