// Package dbuild is empty: it holds the tests of the tree as a whole. The program is
// cmd/dbuild.
package dbuild
