// Package worker runs operations on one machine. It turns a validated LLB graph into
// solver vertices (Load) and carries each of them out: sources are pinned and fetched,
// processes run in containers, files are copied without mounting anything, merges and
// diffs are composed from layers.
//
// What an operation reads decides how it is keyed. A root filesystem or a mount that may
// be written is read by key. The files that a COPY names, and a mount that is only read,
// are read by content: if the content is equal, what produced it does not matter.
package worker
