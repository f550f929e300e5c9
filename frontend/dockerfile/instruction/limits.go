package instruction

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits say how long a RUN may take and how often it is tried. They change nothing about
// what it makes, so they are not part of what the cache compares.
type Limits struct {
	Timeout time.Duration // of one try; zero for none
	Retry   int           // how many more tries there may be
	RetryOn []string      // "timeout", "exit", "exit:N"; none for any
}

// maxRetry bounds --retry.
const maxRetry = 100

// limitFlags are the flags that say so.
type limitFlags struct{ timeout, retry, retryOn flag }

func (l *limitFlags) flags() []*flag {
	l.timeout.name, l.retry.name, l.retryOn.name = "timeout", "retry", "retry-on"
	return []*flag{&l.timeout, &l.retry, &l.retryOn}
}

func (l *limitFlags) parse() (out Limits, err error) {
	if l.timeout.set {
		out.Timeout, err = time.ParseDuration(l.timeout.value)
		switch {
		case err != nil:
			return out, fmt.Errorf("--timeout: invalid duration %q, want one like 90s, 10m or 1h30m", l.timeout.value)
		case out.Timeout < time.Millisecond:
			return out, fmt.Errorf("--timeout=%s: the time must be at least %s", l.timeout.value, time.Millisecond)
		}
	}
	if l.retry.set {
		out.Retry, err = strconv.Atoi(l.retry.value)
		if err != nil || out.Retry < 0 || out.Retry > maxRetry {
			return out, fmt.Errorf("--retry: invalid number %q, want one from 0 to %d", l.retry.value, maxRetry)
		}
	}
	if !l.retryOn.set {
		return out, nil
	}
	if !l.retry.set {
		return out, errors.New("--retry-on says when to try again, but --retry, how often, is missing")
	}
	for word := range strings.SplitSeq(l.retryOn.value, ",") {
		if err := checkRetryOn(word); err != nil {
			return out, err
		}
		if word == "timeout" && out.Timeout == 0 {
			return out, errors.New("--retry-on=timeout needs a --timeout")
		}
		out.RetryOn = append(out.RetryOn, word)
	}
	return out, nil
}

func checkRetryOn(word string) error {
	if kinds := []string{"timeout", "exit"}; !slices.Contains(kinds, word) {
		kind, code, ok := strings.Cut(word, ":")
		if kind != "exit" || !ok {
			return Suggest(fmt.Errorf("--retry-on: unknown reason %q, want timeout, exit or exit:CODE", word), kind, kinds)
		}
		if n, err := strconv.Atoi(code); err != nil || n < 1 || n > 255 {
			return fmt.Errorf("--retry-on=%s: %q is not an exit code from 1 to 255", word, code)
		}
	}
	return nil
}
