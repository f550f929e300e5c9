package daemon

import (
	"os"
	"runtime"

	"github.com/moby/buildkit/util/stack"
)

// maxFrames is how many calls a stack shows.
const maxFrames = 16

// here is where in this program it is called from. Clients show it to those who debug
// them, beside their own.
func here() *stack.Stack {
	var pcs [maxFrames]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	v := buildkitVersion()
	s := &stack.Stack{Pid: int32(os.Getpid()), Cmdline: os.Args[:1], Version: v.Version, Revision: v.Revision}
	for {
		f, more := frames.Next()
		s.Frames = append(s.Frames, &stack.Frame{Name: f.Function, File: f.File, Line: int32(f.Line)})
		if !more {
			return s
		}
	}
}
