package progress

import (
	"time"

	digest "github.com/opencontainers/go-digest"
)

// A Vertex is how one build shows a step. Digest is its identity on the wire.
type Vertex struct {
	Digest digest.Digest
	Name   string
	Inputs []digest.Digest
	Group  *Group // nil unless several vertices are folded into one line
}

// A Group folds several vertices into one line of the display.
type Group struct {
	ID, Name string
	Weak     bool
}

// An Event is one thing that happened at a vertex. Exactly one of Vertex, Status,
// Output and Warning is set.
type Event struct {
	Digest  digest.Digest // of the vertex it belongs to
	Vertex  *VertexState
	Status  *Status
	Output  *Output
	Warning *Warning
}

// A VertexState is the whole state of a vertex, sent again on each change.
// A vertex may be started again after it completed; readers add the intervals up.
type VertexState struct {
	Vertex
	Started, Completed *time.Time
	Cached             bool
	Error              string
}

// A Status is one line under a vertex, such as "transferring context:". ID is
// printed as it is; Current and Total are bytes, or zero.
type Status struct {
	ID                 string
	Current, Total     int64
	Timestamp          time.Time
	Started, Completed *time.Time
}

// Output is a piece of what a process printed. Stream is 1 or 2.
type Output struct {
	Stream    int
	Data      []byte
	Timestamp time.Time
}

// A Warning is attached to a vertex by a frontend.
type Warning struct {
	Level  int
	Short  []byte
	Detail [][]byte
	URL    string
	// Source and Ranges say which lines of which file it is about; opaque here.
	Source any
	Ranges any
}
