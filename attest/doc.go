// Package attest has what is said about a result beside the result itself: in-toto
// statements, how clients ask for them, and how they name what they are about.
//
// Statements leave the builder, so whatever goes into one passes Redact first: nothing
// that looks like credentials in a URL gets out.
package attest
