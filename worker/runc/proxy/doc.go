// Package proxy is the HTTP proxy that is a step's only way to the network when the network
// is proxied. It opens TLS connections with certificates of an authority that lives as long
// as the step, so that it sees every request; asks whether a request may be made; and records
// what came back: addresses, status and digests, never bodies.
//
//	step ── HTTP_PROXY ──► Server ── Judge ──► Dial ──► world
//	                          └─► Record
package proxy
