// Package lockfile keeps what the names in a Dockerfile stood for: the digest of each image,
// the checksum of each download, the commit of each git repository.
//
// A lock is a source policy in BuildKit's JSON, one conversion for each name, so that other
// builders understand it (docs/lock.md). In a build of ours a Session answers the daemon's
// questions about sources from it.
package lockfile
