// Package history remembers builds: what was asked for, how it ended, what it showed,
// what came out of it and how long each part took.
//
// A Journal is the history of one state directory. An Entry is one build in it: it is
// running, then finished, and then settled, which is when its record has all it will have.
// A record refers to blobs (the log, the trace, the full error, manifests, attestations)
// by digest; a client reads them through the content service.
//
// Nothing a build waits for is done here: Finish hands over, and one goroutine encodes the
// log, makes the spans and has the record written. A client that asks for a build that
// has just finished waits until it is settled.
//
// # On disk
//
//	history/<ref>/record         in the store's database: the record as protobuf
//	history/<ref>/blob/<digest>  a small blob
//	history/<ref>/file/<digest>  the size of a large one, which is
//	<root>/<hex of the digest>   a file
//
// One transaction writes all of a record, after its files have reached the disk, so a
// record is there whole or not at all. Files that no record names go when a Journal opens.
package history
