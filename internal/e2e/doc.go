// Package e2e runs the scripts of testdata/script: the real program, its real daemon,
// real containers, a real registry, BuildKit's own client. `make e2e` builds what it
// needs and runs it, as root.
//
// The scripts of testdata/matrix are the rows of docs/language.md: they build with the command
// build, and look into the image with the command image (imagecmd_test.go lists its verbs).
package e2e
