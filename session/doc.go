// Package session reaches what a client lends to its build: directories, secrets, SSH
// agents, uploads. A session is a gRPC server run by the client inside one stream of
// the control API; the daemon is its client. The wire is BuildKit's, and so are the
// types that speak it; this package adds the daemon's side: accepting streams, waiting
// for a session that has not arrived yet, and choosing among the sessions of a build.
//
// # Lanes
//
// A lane is a second stream beside a session, by which a client of ours sends files
// without HTTP/2 within HTTP/2: a call of Control.Session with [LaneHeader], whose bytes
// are
//
//	daemon → client  a frame with a [LaneRequest] in JSON, as soon as a directory is wanted
//	client → daemon  a frame with a [LaneReply] in JSON
//	both directions  frames with fsutil's packets, as in FileSync.DiffCopy
//
// In one thing the packets differ: attributes of a regular file are not in the list, where
// nobody needs them if the file is unchanged. If there are any they come before its content,
// as a packet of type STAT with the number of the file and a Stat without path.
//
// A frame is its length as a varint and so many bytes. A lane carries one transfer; the
// client opens another one when it gets a request.
package session
