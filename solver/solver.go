package solver

import (
	"context"
	"runtime"
	"sync"

	"github.com/dbuild/dbuild/internal/progress"
)

// Config says what a Solver uses.
type Config struct {
	Cache Cache // nil remembers nothing from one build to the next
	// MaxRuns is how many Op.Run may be under way at once; 0 means no limit: what costs
	// is limited by whoever carries it out.
	MaxRuns int
	// MaxSums is how many Slot.Content may be under way at once; 0 means twice the
	// number of CPUs.
	MaxSums int
	// Limits are those of the vertices' logs.
	Limits progress.Limits
}

// A Solver answers questions for any number of concurrent jobs.
type Solver struct {
	cache    Cache
	limits   progress.Limits
	runLimit *limiter // under mu
	sumLimit *limiter // under mu

	// mu guards everything that jobs, cells, flights and attempts say is under it. It
	// is held for map operations only, never while calling an Op, a Cache or a Ref.
	mu       sync.Mutex
	jobs     int // ever made
	open     int // of them, not closed
	planning int // of them, those with NoRuns
	cells    map[Def]*cell
	runs     map[runKey]*run
	sums     map[sumKey]*summing
	trash    []Releaser // to be released by unlock
	workers  int        // goroutines
	idle     chan struct{}
}

// New returns a Solver.
func New(cfg Config) *Solver {
	if cfg.Cache == nil {
		cfg.Cache = noCache{}
	}
	if cfg.MaxSums <= 0 {
		cfg.MaxSums = 2 * runtime.GOMAXPROCS(0)
	}
	s := &Solver{
		cache:    cfg.Cache,
		limits:   cfg.Limits,
		sumLimit: &limiter{free: cfg.MaxSums},
		cells:    make(map[Def]*cell),
		runs:     make(map[runKey]*run),
		sums:     make(map[sumKey]*summing),
	}
	if cfg.MaxRuns > 0 {
		s.runLimit = &limiter{free: cfg.MaxRuns}
	}
	return s
}

// Stats says what a Solver holds right now.
type Stats struct {
	Jobs    int // open
	Cells   int // vertices that open jobs have loaded
	Working int // goroutines, including those of abandoned work that still unwinds
}

// Stats returns what s holds right now.
func (s *Solver) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Jobs: s.open, Cells: len(s.cells), Working: s.workers}
}

// Wait returns when nothing is being worked on, not even work that was abandoned and
// is still unwinding, or when ctx ends.
func (s *Solver) Wait(ctx context.Context) error {
	for {
		s.mu.Lock()
		if s.workers == 0 {
			s.mu.Unlock()
			return nil
		}
		if s.idle == nil {
			s.idle = make(chan struct{})
		}
		idle := s.idle
		s.mu.Unlock()
		select {
		case <-idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// addWorkers counts goroutines. s.mu is held.
func (s *Solver) addWorkers(n int) {
	if s.workers += n; s.workers == 0 && s.idle != nil {
		close(s.idle)
		s.idle = nil
	}
}

// unlock unlocks mu and then releases the refs that were let go of under it.
func (s *Solver) unlock() {
	trash := s.trash
	s.trash = nil
	s.mu.Unlock()
	for _, r := range trash {
		r.Release()
	}
}

// discard lets go of the value of a flight. s.mu is held.
func (s *Solver) discard(val any) {
	switch v := val.(type) {
	case *answer:
		v.drop(s)
	case *pinned:
		v.drop(s)
	case *outcome:
		for _, r := range v.refs {
			if r != nil {
				s.trash = append(s.trash, r)
			}
		}
		v.refs = nil
	}
}

// An answer is a Ref and the Key it was found or made under. It owns the Ref, which is
// released when the last holder drops the answer.
type answer struct {
	key  Key
	out  ID     // of the output, as a Cache knows it
	ref  Ref    // owned
	id   string // of ref
	uses int    // holders; under Solver.mu
	show func() // ends what ref has shown where it was found; nil if there is nothing to show
}

// newAnswer takes over ref. It has one holder.
func newAnswer(key Key, output int, ref Ref) *answer {
	return &answer{key: key, out: OutputID(key.ID, output), ref: ref, id: ref.ID(), uses: 1}
}

// drop gives up one hold. s.mu is held.
func (a *answer) drop(s *Solver) {
	if a.uses--; a.uses == 0 {
		s.trash = append(s.trash, a.ref)
		if a.show != nil {
			s.trash = append(s.trash, release(a.show))
		}
	}
}

// hold keeps answers, and spec unless nil, alive until a ends, unless a is dead. Only a
// leaf calls it.
func (a *attempt) hold(spec *pinned, answers []*answer) bool {
	a.s.mu.Lock()
	defer a.s.mu.Unlock()
	if a.dead {
		return false
	}
	for _, ans := range answers {
		ans.uses++
	}
	if spec != nil {
		spec.uses++
	}
	a.mem = held{spec, answers}
	return true
}

type held struct {
	spec    *pinned
	answers []*answer
}

func (h held) drop(s *Solver) {
	for _, ans := range h.answers {
		ans.drop(s)
	}
	if h.spec != nil {
		h.spec.drop(s)
	}
}

// A Knower is a Cache that can say cheaply whether an ID was ever seen.
type Knower interface{ Known(ID) bool }

// noCache is a Cache that forgets everything at once.
type noCache struct{}

func (noCache) Get(context.Context, ID) (Ref, bool, error) { return nil, false, nil }
func (noCache) Put(ID, Ref)                                {}
func (noCache) Drop(ID, Ref)                               {}
func (noCache) Sum(ID, Part) (Sum, string, bool)           { return Sum{}, "", false }
func (noCache) PutSum(ID, Part, Sum, string)               {}
