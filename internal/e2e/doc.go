// Package e2e runs the scripts of testdata/script: the real program, its real daemon,
// real containers, a real registry, BuildKit's own client. `make e2e` builds what it
// needs and runs it, as root.
package e2e
