// Package buildflags turns the flags of "dbuild build" into a Request: what to ask of a
// daemon, and what to lend it. It contacts nobody and writes nothing; what is wrong with
// a command line is found here, before a daemon is.
package buildflags
