// Package client runs a frontend of ours beside a builder that is somewhere else: it is a
// Bridge that speaks BuildKit's LLBBridge API to whatever daemon started this process in a
// container, on the process's standard input and output.
package client
