// Package local receives directories of a client: build contexts and Dockerfiles. The
// client lists a directory over its session, the daemon asks for the content of files it
// does not have, and keeps what it got for the next build. The packets are fsutil's. Clients
// of ours send them on a lane, which package session describes; others by FileSync.DiffCopy.
//
// # What is kept
//
// Each (client, directory name, patterns) has a directory of its own:
//
//	tree/   the files, as the client has them
//	index   what is in tree: a sorted list of entries, each with the SHA-256 of its file
//	dirty   exists while tree is being changed
//	tmp/    files being received that may replace one in tree
//
// A transfer is one merge of two sorted lists, the client's and the index; what is equal
// costs no system call. Nothing in tree is ever modified in place: a file that changes in
// any way gets a new inode, so layers may hold hard links to the old one. The index is
// written last. If dirty exists (the daemon died) or the index was written before the
// machine was started (a power cut may have lost file data), the files are read once and
// what does not match the index is dropped from it, and so asked for again.
//
// # Which files are sent again
//
// Size and modification time do not tell whether content changed. A client of ours adds
// the pseudo attribute [StatXattr] to each file: what its kernel says about the inode,
// change time included, which no program can set back. A file is kept if that is equal.
// For clients that do not send it, every file is received again and compared by digest;
// if it is equal the old inode stays. Only a request that says so trusts the time alone.
//
// # Use by builds
//
// A [Tree] is the result of one transfer. It holds its directory until it is released: a
// transfer for the same key that comes meanwhile gets another directory, whose files are
// linked from the first where the client's attributes are equal, and never waits.
package local
