package llb

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/util/apicaps"
)

// CapRunLimits is announced by builders that enforce RunLimits. No vertex requires it.
const CapRunLimits apicaps.CapID = "dbuild.exec.limits"

// RunLimits say how long the process of an Exec may run and how often it is tried. They
// change nothing about its result, so they are in the description of the vertex, which is
// part of no digest, and builders that do not know them build the same.
type RunLimits struct {
	Timeout time.Duration // of one try; zero for none
	Retry   int           // how many more tries there may be
	RetryOn []string      // "timeout", "exit", "exit:CODE"; none for any of them
}

// The keys of Meta.Description.
const (
	limitTimeout = "dbuild.timeout"
	limitRetry   = "dbuild.retry"
	limitRetryOn = "dbuild.retry-on"
)

const (
	minTimeout = time.Millisecond
	maxRetry   = 100
)

// Describe adds the limits to the description of a vertex.
func (l RunLimits) Describe(description map[string]string) {
	if l.Timeout > 0 {
		description[limitTimeout] = l.Timeout.String()
	}
	if l.Retry > 0 {
		description[limitRetry] = strconv.Itoa(l.Retry)
	}
	if len(l.RetryOn) > 0 {
		description[limitRetryOn] = strings.Join(l.RetryOn, ",")
	}
}

// LimitsOf reads them from the description of a vertex.
func LimitsOf(description map[string]string) (RunLimits, error) {
	return ParseRunLimits(description[limitTimeout], description[limitRetry], description[limitRetryOn])
}

// ParseRunLimits reads a duration, a number and a list of reasons; "" is none of each.
func ParseRunLimits(timeout, retry, retryOn string) (l RunLimits, err error) {
	if timeout != "" {
		l.Timeout, err = time.ParseDuration(timeout)
		switch {
		case err != nil:
			return l, fmt.Errorf("timeout: invalid duration %q, want one like 90s, 10m or 1h30m", timeout)
		case l.Timeout < minTimeout:
			return l, fmt.Errorf("timeout=%s: the time must be at least %s", timeout, minTimeout)
		}
	}
	if retry != "" {
		l.Retry, err = strconv.Atoi(retry)
		if err != nil || l.Retry < 0 || l.Retry > maxRetry {
			return l, fmt.Errorf("retry: invalid number %q, want one from 0 to %d", retry, maxRetry)
		}
	}
	if retryOn == "" {
		return l, nil
	}
	for word := range strings.SplitSeq(retryOn, ",") {
		if err := checkRetryOn(word); err != nil {
			return l, err
		}
		if word == "timeout" && l.Timeout == 0 {
			return l, errors.New("retry-on=timeout needs a timeout")
		}
		l.RetryOn = append(l.RetryOn, word)
	}
	return l, nil
}

func checkRetryOn(word string) error {
	if word == "timeout" || word == "exit" {
		return nil
	}
	code, ok := strings.CutPrefix(word, "exit:")
	if !ok {
		return fmt.Errorf("retry-on: unknown reason %q, want timeout, exit or exit:CODE", word)
	}
	if n, err := strconv.Atoi(code); err != nil || n < 1 || n > 255 {
		return fmt.Errorf("retry-on=%s: %q is not an exit code from 1 to 255", word, code)
	}
	return nil
}

// Again says whether a try that ended is followed by another. tries counts those there
// were; code is how the process exited, or -1 if it ran out of time.
func (l RunLimits) Again(tries, code int) bool {
	if tries > l.Retry {
		return false
	}
	if code < 0 {
		return len(l.RetryOn) == 0 || slices.Contains(l.RetryOn, "timeout")
	}
	return len(l.RetryOn) == 0 || slices.Contains(l.RetryOn, "exit") || slices.Contains(l.RetryOn, "exit:"+strconv.Itoa(code))
}
