// Package provenance writes down how a result was made, as a SLSA predicate.
//
// A Capture is what is known about one result when its build is over: who was asked for
// it and how, what was fetched from outside (Material), and the graph. It is cheap to
// take; Predicate turns it into a document when somebody wants that. The documents have
// the fields, names and build types of BuildKit's, so that its readers understand them.
package provenance
