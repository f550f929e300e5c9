// Command dbuild builds container images from Dockerfiles.
//
// It is the client and the daemon: "dbuild PATH" asks a daemon over BuildKit's API to
// build, starting one in the background if none listens, and "dbuild daemon" is one.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/lockfile"
	"github.com/dbuild/dbuild/explain"
)

// app is what the commands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	lookup         func(string) (string, bool)

	at    *places // where a daemon is by default; nil for the usual places
	addr  string
	tls   tlsFlags
	debug bool
	// sources decides what the sources of builds are; nil leaves it to them.
	sources *lockfile.Session
	// planned prints what a build would do; nil: it is done.
	planned func(io.Writer, *explain.Trace, *explain.Report) error
}

func main() {
	initContainer() // does not return in a process that becomes a container
	os.Exit(run())
}

func run() int {
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, lookup: os.LookupEnv}
	ctx, stop := a.untilSignal()
	defer stop()
	args := os.Args[1:]
	if isPlugin(os.Args[0]) {
		rest, done, err := a.plugin(args)
		if err != nil {
			report(a.stderr, err, false)
			return exitCode(err)
		}
		if done {
			return 0
		}
		args = rest
	}
	return a.execute(ctx, args)
}

// execute runs one command line and returns what to exit with.
func (a *app) execute(ctx context.Context, args []string) int {
	root := a.rootCommand()
	root.SetArgs(args)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil && exitCode(err) == exitOther {
		err = ctx.Err() // what fails once we are stopping, fails because of that
	}
	report(a.stderr, err, a.debug)
	return exitCode(err)
}

// oneSignal is how far apart signals are that are one request: timeout(1), and whoever
// else signals a process and then its group, sends two.
const oneSignal = 50 * time.Millisecond

// untilSignal returns a context that the first SIGINT or SIGTERM ends. The second ends
// the program.
func (a *app) untilSignal() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		select {
		case <-signals:
		case <-done:
			return
		}
		time.Sleep(oneSignal)
		for len(signals) > 0 {
			<-signals
		}
		fmt.Fprintln(a.stderr, "dbuild: stopping; once more to stop at once")
		cancel()
		select {
		case <-signals:
			os.Exit(exitCanceled)
		case <-done:
		}
	}()
	return ctx, func() {
		signal.Stop(signals)
		close(done)
		cancel()
	}
}

func (a *app) warn(format string, args ...any) {
	fmt.Fprintf(a.stderr, "dbuild: warning: "+format+"\n", args...)
}

func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.stderr, "dbuild: note: "+format+"\n", args...)
}
