// Package instruction turns the text of a Dockerfile into typed instructions: one
// struct per instruction, each knowing where it stands in the source. It does no I/O and
// expands no variables, so that it can serve builds, linters and outlines alike.
//
//	bytes ── moby parser ──▶ nodes ── Parse ──▶ File{Global, Stages{From, Body}}
//
// All that can be known to be wrong without arguments and without a network is reported
// here, as a *parser.LocationError that names the lines.
package instruction
