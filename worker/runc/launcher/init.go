//go:build cgo

package launcher

import (
	"os"
	"runtime"
	"runtime/debug"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins namespaces before Go starts
)

// Init must be the first call of main. It returns at once, unless this process was
// started as a launcher or as the init of a container; then it never returns.
func Init() {
	switch {
	case os.Getenv(initPipeEnv) != "":
		debug.SetGCPercent(-1) // it lives for milliseconds
		// The command is executed by the thread that the kernel knows the process by. From
		// another one the process would be gone for a moment, in which nothing can join it.
		runtime.LockOSThread()
		ready := make(chan struct{})
		go receiveFilter(ready)
		<-ready
		libcontainer.Init()
	case len(os.Args) == 1 && os.Args[0] == argv0:
		os.Exit(serveControl())
	}
}
