// Package solver finds or makes the answers to questions. A question is a Vertex:
// an operation and the outputs of other vertices that it reads. An answer is a set
// of Refs. The solver does no I/O of its own: operations identify themselves and
// run, a Cache remembers.
//
// The vocabulary, used with one meaning in the whole tree:
//
//	def     names a question: an op and, recursively, what it reads
//	key     names an answer, for ever: the op and, per input, the input's key or
//	        the content of the part of it that is read
//	slot    how one input enters a key
//	spec    what identifies an op apart from its inputs
//	pin     what a mutable name (tag, branch, directory) meant when it was looked up
//	answer  the Refs made for a key
//	ref     a result; what it holds, and where, is not the solver's business
//	cell    a def being solved, shared by every job that asks
//	flight  a computation that happens once, is shared, and ends when nobody waits
//	job     one client's build
//
// # How an answer is found
//
//	slot(i) = H("key",     key(input i), output, part)   an input read by key
//	        | H("content", sum of the part of input i)   an input read by content
//	key     = H("op", salt, spec.ID, slot(0), …, slot(n))
//
// predict computes a key from remembered sums, building only what it must; result
// looks the key up and, on a miss, builds the inputs, computes the exact key from
// what is in hand, looks again, and runs. A remembered sum may guide a look-up,
// never name a new answer.
package solver
