// Package session reaches what a client lends to its build: directories, secrets, SSH
// agents, uploads. A session is a gRPC server run by the client inside one stream of
// the control API; the daemon is its client. The wire is BuildKit's, and so are the
// types that speak it; this package adds the daemon's side: accepting streams, waiting
// for a session that has not arrived yet, and choosing among the sessions of a build.
package session
