package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
)

// A timeoutError says that a build was stopped because its time was over.
type timeoutError struct {
	after   time.Duration
	working []string // the steps that were at work, as progress shows them; may be empty
}

// maxWorking bounds how many steps are named.
const maxWorking = 3

func (e *timeoutError) Error() string {
	msg := fmt.Sprintf("the build was stopped after %s, its --timeout", e.after)
	if len(e.working) == 0 {
		return msg
	}
	msg += "; at work was " + strings.Join(e.working[:min(len(e.working), maxWorking)], ", ")
	if more := len(e.working) - maxWorking; more > 0 {
		msg += fmt.Sprintf(" and %d more", more)
	}
	return msg
}

// buildOnce builds, for as long as --timeout allows. What becomes known on the way is in r.
func (a *app) buildOnce(ctx context.Context, f *buildflags.Flags, contextArg string, files resultFiles, r *running) error {
	if f.Timeout <= 0 {
		return a.buildUntilDone(ctx, f, contextArg, files, r)
	}
	over := &timeoutError{after: f.Timeout}
	limited, cancel := context.WithTimeoutCause(ctx, f.Timeout, over)
	defer cancel()
	err := a.buildUntilDone(limited, f, contextArg, files, r)
	if err == nil || ctx.Err() != nil || context.Cause(limited) != error(over) {
		return err
	}
	if r.progress != nil {
		over.working = r.progress.stopped
	}
	return over
}
