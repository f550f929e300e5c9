// Package progress records what happens at each vertex of a build and lets any
// number of readers follow it.
//
// A Log belongs to one vertex. It is append-only: intervals (started, completed,
// cached, failed), statuses ("transferring context", bytes so far), output lines
// of a process, and warnings. Work shared by several builds has one Log.
//
// A Stream belongs to one build. Logs are attached to it under the name that build
// gave the vertex, and a reader of the Stream sees every event of every attached
// Log from its beginning, however late it starts reading.
//
// Memory is bounded: process output beyond Limits is dropped with a notice.
package progress
