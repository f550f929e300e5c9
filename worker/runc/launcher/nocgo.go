//go:build !cgo

package launcher

// Init does nothing: a program built without cgo cannot become a container. It needs the
// embedded init program, which can.
func Init() {}
