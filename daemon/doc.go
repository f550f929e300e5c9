// Package daemon puts everything together: it wires stores, sources, worker, solver and
// exporters, and serves BuildKit's control API and the part of the gateway API that
// clients build through. It is the only place that knows all the others.
//
// A build arrives as Control.Solve, together with its Session (what the client lends)
// and its Status (what it wants to see); the three meet by the build's ref. A frontend
// turns the request into LLB through a Bridge, the solver finds or makes the results,
// exporters carry them out.
package daemon
