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
//	foreign by the names and sums of another solver, see Foreign
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
//
// Work is shared twice: cells by def, while several jobs have it loaded, and runs by
// key, as soon as two cells turn out to ask the same. A source that was pinned before
// a job began is pinned again for that job; what is made of it is shared by key.
//
// # Failures
//
// An error is attributed to a vertex once, by a VertexError, where it arose. The jobs
// that waited for it will see it again if they ask again; others get their own attempt.
// When one input of a step fails, the step leaves the others, and what nobody else
// wants of them is cancelled. When a Ref turns out to be lost, whoever finds out
// returns a LostError; the step that reads it makes the cache and the producer forget
// it, and starts over.
//
// # Who releases what
//
//   - Refs that Op.Run returns belong to the solver, from then on. With an error, it
//     must not return any.
//   - Refs given to Op.Run and Slot.Content are good until these return; whoever wants
//     to keep one retains it.
//   - Cache.Get returns a Ref that belongs to the solver. Cache.Put is lent one, for the
//     duration of the call.
//   - Job.Build returns a Ref that belongs to the caller and outlives the job.
//   - The solver holds the Refs of a cell until the last job that loaded it is closed or
//     the Ref is forgotten, and not before the last run that reads them has returned.
package solver
