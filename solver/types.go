package solver

import (
	"context"
	"fmt"
	"iter"

	"github.com/dbuild/dbuild/internal/progress"
)

// A Def names a question. It is good for as long as the daemon runs, never longer:
// image tags move.
type Def [32]byte

// An ID names an answer, for ever.
type ID [32]byte

// A Part names a part of an answer, such as "these paths, followed like so".
type Part [32]byte

// A Sum is the digest of the content of a part.
type Sum [32]byte

// A Stamp belongs to a build that was told not to use the cache.
type Stamp [32]byte

// A Key is an answer's name. A stamped Key is never looked up, but what is built
// for it is stored under ID.
type Key struct {
	ID    ID
	Stamp Stamp
}

// A Vertex is one operation and the outputs of others that it reads.
type Vertex struct {
	Def     Def
	Op      Op
	Inputs  []Edge
	NoCache bool
	Show    progress.Vertex // how this build shows it
	Hidden  bool            // never shown
}

// An Edge is one output of a vertex.
type Edge struct {
	Vertex *Vertex
	Output int
}

// An Op says what it is, then does it.
type Op interface {
	// Spec identifies the op; a source pins its mutable name here.
	Spec(context.Context, Demand) (Spec, error)
	// Run does what spec says, whatever Spec would say by now. It returns one Ref
	// per output; the solver owns them.
	Run(context.Context, Demand, Spec, []Ref) ([]Ref, error)
}

// A Spec identifies an op apart from its inputs. There is one Slot per input.
type Spec struct {
	ID    ID
	Slots []Slot
	// Pin is carried to Run unread. If it is a Releaser it is released when no cell and
	// no run needs it any more.
	Pin any
}

// A Releaser holds something until it is released.
type Releaser interface{ Release() }

// A release is a Releaser that calls a function.
type release func()

// Release implements Releaser.
func (r release) Release() { r() }

// A Slot is how one input enters the Key: by its own Key, or, when Content is set,
// by the content of a part.
type Slot struct {
	Part    Part
	Content func(context.Context, Demand, Ref) (Sum, error)
}

// A Ref is a result. What it holds, and where, is not the solver's business.
// Retain returns a Ref with a lifetime of its own.
type Ref interface {
	ID() string
	Retain() Ref
	Release()
}

// A Lazy is a Ref that may be a promise. ShowIn has the work of keeping it shown in log, that
// of the vertex it is the result of, until stop is called. stop is nil if all of it is here.
type Lazy interface {
	ShowIn(log *progress.Log) (stop func())
}

// A Cache remembers answers, and may forget any of them at any time. An error from
// it is a miss to the solver. IDs passed to it name one output of an answer.
type Cache interface {
	// Get returns the Ref stored under id, retained for the caller, or nil. known
	// says whether id was ever seen, even if no Ref is left.
	Get(ctx context.Context, id ID) (ref Ref, known bool, err error)
	// Put remembers ref (retaining what it needs), or with a nil ref that id was seen.
	Put(id ID, ref Ref)
	// Drop forgets ref if it is what id holds. id stays known.
	Drop(id ID, ref Ref)
	// Sum returns the remembered content of a part and the ID of the Ref it was
	// computed from.
	Sum(id ID, part Part) (sum Sum, ref string, ok bool)
	PutSum(id ID, part Part, sum Sum, ref string)
}

// A Demand is whoever wants a result: one job, or all jobs waiting for shared work.
// Ops use it to reach the jobs' sessions; it grows and shrinks while the op runs.
type Demand interface {
	// Jobs visits the jobs that will see the outcome.
	Jobs() iter.Seq[*Job]
	// Log is where the op says what it is doing.
	Log() *progress.Log
}

// A LostError says that a Ref the cache promised cannot be read any more. The solver
// forgets it and makes it again. It is never remembered as a vertex's failure.
type LostError struct {
	Ref Ref
	Err error
}

func (e *LostError) Error() string { return fmt.Sprintf("lost %s: %v", e.Ref.ID(), e.Err) }
func (e *LostError) Unwrap() error { return e.Err }

// A VertexError says which vertex failed. It is added once, where the error arose.
type VertexError struct {
	Vertex *Vertex
	Err    error
}

func (e *VertexError) Error() string { return e.Err.Error() }
func (e *VertexError) Unwrap() error { return e.Err }
