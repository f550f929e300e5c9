// Package explain says why steps of a build were not found in the cache.
//
// A Trace is what is kept of a build for that: its steps, what each is made of and from,
// and the names, modes and digests of the files of the client that it could read. It is
// taken down when the build has ended (Taker), and kept with the build's record in the
// history, so it goes when that goes.
//
// Explain compares the Trace of a build with those of earlier ones. It picks the nearest,
// pairs the steps of the two, and looks for the first thing in which a step differs from its
// counterpart. A step that differs only because of what it is made from follows from
// another; so only few of the steps that ran have a cause of their own.
//
// A Trace has no values of secrets: steps name them by id. Credentials in URLs are hidden.
package explain
