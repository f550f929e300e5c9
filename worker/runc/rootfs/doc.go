// Package rootfs looks into and prepares the root file system of a step without ever
// leaving it: what an image or an earlier step put there, links, fifos, devices and
// endless files included, has no effect outside.
package rootfs
