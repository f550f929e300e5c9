// Package engine is a docker engine, or another program that speaks its API, as a store of
// images: what it has of an image, and how it gets the rest.
//
// Engines keep images in one of two ways. With a graph driver, a layer is known by its chain
// ID, which follows from the diff IDs up to it, and an archive need not hold a layer that is
// known: docker load looks for the layer first, and reads the file only if there is none. If
// it needs a file that is not in the archive, the error names that file.
//
// With containerd's store an image is the blobs that its manifest names. An archive may lack
// blobs here too; that the image is complete afterwards has to be asked for, by naming the
// platform (API 1.48).
package engine
