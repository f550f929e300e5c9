// Package ignore reads ignore files (.dockerignore and its kin) and says of a path whether
// they leave it out, and which line decided.
//
// The meaning of patterns is moby/patternmatcher's, as BuildKit's sender applies it: the
// last pattern that matches a path decides, a pattern that matches a directory matches what
// is in it, and "!" takes back in. What is new here is only that lines are remembered.
package ignore
