// Package bolt is the solver's memory on this machine: three tables beside the
// snapshot store's own, in the same database.
//
//	answers  ID        → the layers of the Ref stored under it, when made, when last used
//	known    ID        → when last seen; kept when the answer is gone
//	sums     ID + Part → the content of the part, the Ref it was computed from, when last used
//
// All of it may be lost at any time: an answer that is gone is made again, a sum is
// computed again, and without known some builds merely start more eagerly.
//
// Writes become durable with the store's next group commit, after the files they speak
// of. Until then they are seen through an overlay in memory.
package bolt
