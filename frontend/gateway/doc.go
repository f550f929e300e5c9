// Package gateway serves BuildKit's LLBBridge API: a frontend that runs elsewhere, in the
// client or in a container, talks to the Bridge of its build over it.
//
// A Forwarder is one service for all builds of a daemon; each call names its build in
// metadata. A client may call before its build has arrived, so calls wait a little. A
// frontend in a container has a service of its own, on its standard input and output, that
// knows no other build.
package gateway
