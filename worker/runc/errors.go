package runc

import (
	"errors"
	"fmt"
	"strings"
)

// Exit codes of commands that cannot be executed, as of a shell.
const (
	codeNotExecutable = 126
	codeNotFound      = 127
)

// startError translates what a runtime says about a command that never started.
func startError(msg string) error {
	for _, prefix := range []string{
		"runc run failed: ", "unable to start container process: ", "error during container init: ",
	} {
		msg = strings.TrimPrefix(msg, prefix)
	}
	// runc: `exec: "x": executable file not found in $PATH`, `exec: "/x": stat /x: no such
	// file or directory`, `exec: "/x": permission denied`.
	// crun: "executable file `x` not found in $PATH", "open executable: Permission denied".
	isExec := strings.HasPrefix(msg, "exec: ") || strings.HasPrefix(msg, "exec ") || strings.Contains(msg, "executable")
	lower := strings.ToLower(msg)
	switch {
	case isExec && (strings.Contains(lower, "not found") || strings.Contains(lower, "no such file")):
		return fmt.Errorf("%s: %w", msg, &ExitError{Code: codeNotFound})
	case isExec && (strings.Contains(lower, "permission denied") || strings.Contains(lower, "is a directory")):
		return fmt.Errorf("%s: %w", msg, &ExitError{Code: codeNotExecutable})
	}
	return fmt.Errorf("start container: %w", errors.New(msg))
}
