// Command init is the program that containers are made from: see worker/runc/launcher.
// It is built first, statically, into worker/runc/initbin/dbuild-init, from where it
// becomes part of the daemon.
package main

import (
	"fmt"
	"os"

	"github.com/dbuild/dbuild/worker/runc/launcher"
)

func main() {
	launcher.Init()
	fmt.Fprintln(os.Stderr, "this program is started by the dbuild daemon")
	os.Exit(2)
}
