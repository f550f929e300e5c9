// Command conformance runs the integration tests that ship inside the Go module
// github.com/moby/buildkit, at the version in go.mod, against dbuild's daemon or against a
// stock buildkitd, and compares the two. `make conformance` runs it, as root, on Linux.
//
// A leaf is one test of upstream's with one entry of its matrix, such as
// TestIntegration/TestRmSymlink/worker=oci. Every leaf runs in a process and in namespaces
// of its own (inside.go), so that a hang, a crash or a leaked mount hurts that leaf only
// and nothing of the machine is changed. Nothing is fetched: base images are stand-ins made
// on the spot under the names that the tests ask for (standins.go), and the few names of
// the internet that they use are answered inside the namespace (outside.go).
//
// The tests are never edited or left out. What fails stays in the report.
package main
