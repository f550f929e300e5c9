// Package localimage lends images of this machine's engines to a build, as content stores that
// the daemon reads blobs from when it needs them (oci-layout:// sources).
//
// A containerd is such a store. A docker engine is not: it gives an image out as a whole only.
// So the image is saved into a directory the first time that a blob of it is wanted. Its
// manifest and config are remembered by its id, which says what they are: the daemon, which
// keeps layers, then wants nothing else of an image that it has read once.
package localimage
