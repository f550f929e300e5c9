// Package fileop carries out the actions of a FileOp (copy, mkfile, mkdir, rm, symlink)
// without mounting anything. It reads through a treehash.FS and writes into an overlay
// upper directory, so that the result looks as if the action had been done on an overlay
// mount of Upper over Lower: whiteouts are character devices 0/0, a directory that hides
// what is beneath carries the xattr trusted.overlay.opaque.
//
// Unlike a mount it keeps the modification times of directories that files are added to,
// so the same action on the same tree always makes the same layer.
//
// Paths of the destination are resolved element by element in the combined tree before
// anything is written, so no symlink of an image leads out of Upper.
package fileop
