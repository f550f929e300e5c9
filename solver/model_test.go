package solver_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"sync"
	"testing"

	"github.com/dbuild/dbuild/solver"
)

var seeds = flag.Int("model.seeds", 600, "number of random worlds the model check visits")

// TestModel builds random graphs in a changing world, with concurrent and impatient
// clients, clients that refuse the cache, ops that fail, a cache that forgets and a
// cache that lies. Every result must be that of evaluation without a cache; nothing may
// run twice unless there was a reason; nothing may be left over.
func TestModel(t *testing.T) {
	n := *seeds
	if testing.Short() {
		n /= 5
	}
	for seed := range n {
		m := &model{rig: newRig(t), seed: seed, rnd: rand.New(rand.NewSource(int64(seed)))}
		m.s = solver.New(solver.Config{Cache: m.c, MaxRuns: m.rnd.Intn(5), MaxSums: 1 + m.rnd.Intn(3)})
		for range 1 + m.rnd.Intn(8) {
			m.round()
			if t.Failed() {
				t.Fatal("seed", seed)
			}
		}
		m.c.forgetAll()
		m.quiet()
	}
}

type model struct {
	*rig
	seed   int
	rnd    *rand.Rand
	gaveUp bool // somebody was impatient: abandoned work may overlap its successor
}

func (m *model) round() {
	m.changeWorld()
	again := m.corruptCache() || m.gaveUp // something may run again
	failing := m.failures()
	if failing || m.rnd.Intn(5) == 0 {
		again = true
	}
	vs := m.graph(again)
	if again {
		m.w.mu.Lock()
		clear(m.w.ran)
		m.w.mu.Unlock()
	}
	var wg sync.WaitGroup
	for range 1 + m.rnd.Intn(3) {
		impatient := m.rnd.Intn(4) == 0
		if impatient {
			again, m.gaveUp = true, true
		}
		edges := make([]solver.Edge, 1+m.rnd.Intn(2))
		for i := range edges {
			edges[i] = solver.Edge{Vertex: vs[4+m.rnd.Intn(len(vs)-4)], Output: m.rnd.Intn(2)}
		}
		j := m.job()
		wg.Go(func() { m.client(j, edges, impatient, failing) })
	}
	wg.Wait()
	m.quiet()
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	if again {
		clear(m.w.ran)
	}
	for k, n := range m.w.ran {
		if n > 1 {
			m.Errorf("seed %d: %s ran %d times", m.seed, k, n)
		}
	}
}

// client builds edges, all at once, in one job.
func (m *model) client(j *solver.Job, edges []solver.Edge, impatient, failing bool) {
	defer j.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if impatient {
		go cancel()
	}
	var wg sync.WaitGroup
	for _, e := range edges {
		wg.Go(func() {
			res, err := j.Build(ctx, e)
			var failed *solver.VertexError
			switch {
			case impatient && errors.Is(err, context.Canceled):
			case failing && errors.As(err, &failed) && errors.Is(err, errExit):
			case err != nil:
				m.Errorf("seed %d: %v", m.seed, err)
			default:
				if got, want := take(res), m.w.naive(e); got != want {
					m.Errorf("seed %d: got %q, want %q", m.seed, got, want)
				}
			}
		})
	}
	wg.Wait()
}

// changeWorld changes the sources, under the feet of abandoned work.
func (m *model) changeWorld() {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	for i := range 4 {
		m.w.sources[fmt.Sprint("s", i)] = fmt.Sprintf("a%d b%d c%d", m.rnd.Intn(2), m.rnd.Intn(2), m.rnd.Intn(3))
	}
}

// corruptCache forgets some answers, loses others without saying so, and reports
// whether it did anything.
func (m *model) corruptCache() (did bool) {
	pick := func(solver.ID, solver.Ref) bool {
		hit := m.rnd.Intn(12) == 0
		did = did || hit
		return hit
	}
	m.c.forget(true, pick)
	m.c.forget(false, pick)
	m.c.mu.Lock()
	defer m.c.mu.Unlock()
	for id, r := range m.c.refs {
		if r != nil && pick(id, r) {
			r.(*val).data.lost.Store(true)
		}
	}
	for id := range m.c.sums {
		if pick(id, nil) {
			delete(m.c.sums, id)
		}
	}
	return did
}

var (
	errExit  = errors.New("exit code: 1")
	errPanic = errors.New("panic")
	// errStubborn makes an op go on after it was cancelled.
	errStubborn = errors.New("stubborn")
)

// failures makes some ops fail for this round.
func (m *model) failures() bool {
	m.w.mu.Lock()
	defer m.w.mu.Unlock()
	clear(m.w.fail)
	if m.rnd.Intn(4) == 0 {
		kind := []string{"o", "hash-o"}[m.rnd.Intn(2)]
		m.w.fail[fmt.Sprint(kind, m.rnd.Intn(6))] = errExit
	}
	return len(m.w.fail) > 0
}

// graph returns four sources and some random ops on top.
func (m *model) graph(noCache bool) []*solver.Vertex {
	var vs []*solver.Vertex
	for i := range 4 {
		vs = append(vs, m.w.src(fmt.Sprint("s", i)))
	}
	for range 1 + m.rnd.Intn(12) {
		var in []read
		for range 1 + m.rnd.Intn(3) {
			in = append(in, read{vs[m.rnd.Intn(len(vs))], max(m.rnd.Intn(5)-2, whole), m.rnd.Intn(2)})
		}
		v := m.w.op(fmt.Sprint("o", m.rnd.Intn(6)), in...)
		v.NoCache = noCache && m.rnd.Intn(6) == 0
		vs = append(vs, v)
	}
	return vs
}
