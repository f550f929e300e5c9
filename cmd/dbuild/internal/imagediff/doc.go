// Package imagediff says how two builds of the same thing differ: which files, in what, and
// which parts of the configuration. Images are read from directories in OCI layout; layers are
// streamed, and of each file no more than what is compared is kept.
package imagediff
