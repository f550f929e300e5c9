// Package http fetches single files by URL: ADD of a URL, and contexts that a client
// uploads, which are URLs of the host buildkit-session.
//
// A URL is pinned by content: the same bytes under the same name are the same source,
// wherever they come from. With a checksum in the request nothing is asked; otherwise the
// server is asked each time, with the entity tag of what is there, so that an unchanged
// file is not sent again.
package http
