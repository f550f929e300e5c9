// Package buildkit computes the names that BuildKit's solver gives to answers, so that a
// cache which BuildKit wrote can be searched, and one written here is found by BuildKit.
// It holds no state and reads nothing but the trees it is given.
//
// In BuildKit a step has a digest of its own, which says what it does, and per input a
// selector, which says where it looks, and perhaps a sum of what it finds there. An output
// is a record:
//
//	digest   sha256("STEP@OUTPUT"), STEP being the step's digest
//	inputs   per input the records it may be, each with a selector:
//	           an output, if the input is known by how it was made, or
//	           sha256("SUM@-1") without selector, if by what was read of it
//
// A source is a record without inputs. What comes from a directory of the client has no
// record: only its sums count.
//
// The rules are those of BuildKit v0.33.1. Where one of them cannot be followed the answer
// is that a step has no name, which is a miss; it is never a guess.
package buildkit
