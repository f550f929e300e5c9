package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"syscall"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/suggest"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/stack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A usageError says that the command line is wrong.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// A statusError ends the program with a code chosen elsewhere; everything has been said.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// codeOf returns the gRPC code that err carries, codes.Unknown for others.
func codeOf(err error) codes.Code {
	if errors.Is(err, context.Canceled) {
		return codes.Canceled
	}
	if errors.Is(err, syscall.ENOSPC) {
		return codes.ResourceExhausted
	}
	var coded interface{ Code() codes.Code }
	if errors.As(err, &coded) {
		return coded.Code()
	}
	var st interface{ GRPCStatus() *status.Status }
	if errors.As(err, &st) {
		return st.GRPCStatus().Code()
	}
	return codes.Unknown
}

// report tells the user about err: the place in the Dockerfile, the cause, a hint.
func report(w io.Writer, err error, debug bool) {
	var st statusError
	if errors.As(err, &st) {
		return
	}
	if codeOf(err) == codes.Canceled {
		fmt.Fprintln(w, "dbuild: canceled")
		return
	}
	msg := userMessage(err, debug)
	for _, src := range errdefs.Sources(err) {
		_ = src.Print(w)
	}
	if file, line := place(err); file != "" {
		if at := fmt.Sprintf("%s:%d", file, line); !strings.HasPrefix(msg, at) {
			msg = at + ": " + msg
		}
	}
	fmt.Fprintln(w, "dbuild: "+msg)
	if h := hint(err, msg); h != "" && !strings.Contains(msg, "\nhint: ") {
		fmt.Fprintln(w, "hint: "+h)
	}
	if debug && len(stack.Traces(err)) > 0 {
		fmt.Fprintf(w, "\n%+v\n", stack.Formatter(err))
	}
}

// userMessage is what a user is told about err, without its place.
func userMessage(err error, debug bool) string {
	msg := plainMessage(err)
	if codeOf(err) == codes.Unavailable && lost(msg) {
		msg = "the connection to the daemon was lost: " + msg
	}
	if cut := strings.Index(msg, "\ngoroutine "); cut > 0 && !debug {
		msg = msg[:cut]
	}
	return msg
}

// How daemons found out that a file is not there, which is of no use to know: explained,
// where it is followed by a sentence that names the instruction.
var (
	explained = regexp.MustCompile(`(?:failed to compute cache key: failed to calculate checksum of ref \S+: "[^"]*": not found|lstat \S+: no such file or directory): ((?:COPY|ADD|RUN|IMPORT): )`)
	missing   = regexp.MustCompile(`failed to compute cache key: failed to calculate checksum of ref \S+: `)
)

// plainMessage returns the text of err without what the transport has added.
func plainMessage(err error) string {
	msg := err.Error()
	code := codeOf(err).String() + ": "
	for {
		before := msg
		msg = strings.TrimPrefix(msg, code)
		for _, prefix := range []string{"failed to solve: ", "failed to call info: ", "failed to receive status: ", "failed to get status: "} {
			msg = strings.TrimPrefix(msg, prefix)
		}
		if rest, ok := strings.CutPrefix(msg, "rpc error: code = "); ok {
			if _, desc, ok := strings.Cut(rest, " desc = "); ok {
				msg = desc
			}
		}
		if msg == before {
			return missing.ReplaceAllString(explained.ReplaceAllString(msg, "$1"), "")
		}
	}
}

// lost tells whether msg is about the connection to the daemon, and not about one of its.
func lost(msg string) bool {
	for _, s := range []string{"error reading from server", "connection error: desc", "transport is closing", "the stream is done or the connection is closed"} {
		if strings.Contains(msg, s) {
			return true
		}
	}
	return false
}

// place returns the file and line of the instruction that failed, or "".
func place(err error) (file string, line int) {
	sources := errdefs.Sources(err)
	if len(sources) == 0 {
		return "", 0
	}
	src := sources[len(sources)-1]
	if src.GetInfo() == nil || len(src.GetRanges()) == 0 {
		return "", 0
	}
	return src.Info.Filename, int(src.Ranges[0].GetStart().GetLine())
}

// A hintedError is an error of which the command line says more.
type hintedError struct {
	error
	hint string
}

func (e *hintedError) Unwrap() error { return e.error }

var missingSecret = regexp.MustCompile(`secret (\S+): not found`)

// nearSecret adds the secret that was lent, if its id is nearly the one that is missing.
func nearSecret(err error, lent []string) error {
	m := missingSecret.FindStringSubmatch(err.Error())
	if m == nil || len(lent) == 0 {
		return err
	}
	if near := suggest.Nearest(m[1], lent); near != "" {
		return &hintedError{err, fmt.Sprintf("--secret lends %q; did you mean that?", near)}
	}
	return &hintedError{err, "--secret lends only " + strings.Join(lent, ", ")}
}

// hint returns what the user can do about err, if that is known.
func hint(err error, msg string) string {
	var conn *connectError
	switch {
	case errors.As(err, &conn) && strings.Contains(msg, "permission denied"):
		return "only root and the group of the socket may use this daemon"
	case errors.As(err, &conn) && conn.addr.from != "" && strings.HasPrefix(conn.addr.url, "unix://"):
		return "start one with \"dbuild daemon --addr " + conn.addr.url + "\", or unset " + conn.addr.from + " to have one started"
	}
	var hinted *hintedError
	if errors.As(err, &hinted) {
		return hinted.hint
	}
	switch codeOf(err) {
	case codes.Unavailable:
		if lost(msg) {
			return "the daemon may have been stopped; run the same command again"
		}
	case codes.ResourceExhausted:
		return "\"dbuild prune\" frees space that builds do not need"
	case codes.Internal:
		return "this is a fault in the daemon; run again with -D to see where"
	}
	for _, e := range []string{"network.host", "security.insecure"} {
		// Our daemon says which of the two must allow it; BuildKit's only that one does not.
		if strings.Contains(msg, e) && strings.Contains(msg, "not allowed") && !strings.Contains(msg, "--allow") {
			return "allow it with --allow " + e
		}
	}
	return ""
}
