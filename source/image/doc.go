// Package image is the source of container images: it pins a name to a manifest, reads
// manifest and config, and makes a Ref whose layers are promises. No layer is fetched
// here. Images come from the image store, from a registry, or from an OCI layout that a
// client lends to its build.
package image
