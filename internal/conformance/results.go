package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// An outcome is what became of a leaf.
type outcome string

const (
	passed  outcome = "pass"
	failed  outcome = "fail"
	skipped outcome = "skip"
)

type result struct {
	Outcome outcome
	Took    time.Duration
	Why     string // first line that says why, of a leaf that did not pass
}

type results map[leaf]result

const (
	timeoutLine   = "conformance: timeout after"
	daemonLogLine = "conformance: log of the daemon:"
)

// judge reads the log of a leaf. What says neither that it passed nor that it was skipped
// has failed.
func judge(name, log string) result {
	quoted := regexp.QuoteMeta(name)
	m := regexp.MustCompile(`(?m)^\s*--- (PASS|FAIL|SKIP): ` + quoted + ` \(`).FindStringSubmatch(log)
	switch {
	case m != nil && m[1] == "PASS" && !strings.Contains(log, "\nFAIL\n"):
		return result{Outcome: passed}
	case m != nil && m[1] == "SKIP":
		return result{Outcome: skipped, Why: skipReason(log)}
	}
	return result{Outcome: failed, Why: firstError(log)}
}

// skipLine is what testing prints for t.Skip.
var skipLine = regexp.MustCompile(`(?m)^\s+\w+\.go:\d+: (.*)$`)

func skipReason(log string) string {
	before, _, _ := strings.Cut(log, "--- SKIP")
	all := skipLine.FindAllStringSubmatch(before, -1)
	if len(all) == 0 {
		return ""
	}
	return shorten(all[len(all)-1][1])
}

var (
	errorBlock = regexp.MustCompile(`(?s)\n\s+Error:\s+(.*?)\n\s+(?:Test|Messages):`)
	panicLine  = regexp.MustCompile(`(?m)^(panic: .*|fatal error: .*)$`)
	plainLine  = regexp.MustCompile(`(?m)^\s+\w+_?\w*\.go:\d+: (.+)$`)
	errorMark  = regexp.MustCompile(`(?m)^conformance: (.*)$`)
)

// firstError is the first thing that went wrong, in one line.
func firstError(log string) string {
	test, daemon, _ := strings.Cut(log, daemonLogLine)
	if m := panicLine.FindString(daemon); m != "" && !strings.Contains(m, "SIGQUIT") {
		return shorten("daemon: " + m)
	}
	if m := panicLine.FindString(test); m != "" {
		return shorten(m)
	}
	if _, after, late := strings.Cut(test, timeoutLine); late {
		took, _, _ := strings.Cut(after, "\n")
		return "timeout after" + took
	}
	if m := errorBlock.FindStringSubmatch(test); m != nil {
		if strings.Contains(m[1], "process exited while waiting for socket") && daemon != "" {
			return shorten("the daemon did not start: " + daemon)
		}
		return shorten(withoutStack(m[1]))
	}
	for _, re := range []*regexp.Regexp{plainLine, errorMark} {
		if m := re.FindStringSubmatch(test); m != nil {
			return shorten(m[1])
		}
	}
	return "no result"
}

// withoutStack drops what testify and pkg/errors print after an error.
func withoutStack(block string) string {
	var kept []string
	for line := range strings.Lines(block) {
		line = strings.TrimSpace(line)
		if stackLine.MatchString(line) {
			break
		}
		if line != "Received unexpected error:" {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, " ")
}

var stackLine = regexp.MustCompile(`^(github\.com|golang\.org|google\.golang\.org|testing|runtime|main)[./][^ ]*$`)

// shorten makes one line that fits a table.
func shorten(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 300 {
		s = string(r[:300]) + "…"
	}
	return s
}

func resultsFile(out, daemon string) string {
	return filepath.Join(out, "results", daemon+".tsv")
}

func readResults(file string) (results, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return results{}, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	all := results{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		part := strings.SplitN(lines.Text(), "\t", 5)
		if len(part) != 5 {
			return nil, fmt.Errorf("%s: not a line of results: %q", file, lines.Text())
		}
		seconds, err := strconv.ParseFloat(part[3], 64)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all[leaf{part[0], part[1]}] = result{outcome(part[2]), time.Duration(seconds * float64(time.Second)), part[4]}
	}
	return all, lines.Err()
}

// write replaces file, so that a reader sees the old or the new results.
func (rs results) write(file string) error {
	var text strings.Builder
	for _, l := range rs.leaves() {
		r := rs[l]
		fmt.Fprintf(&text, "%s\t%s\t%s\t%.1f\t%s\n", l.Package, l.Name, r.Outcome, r.Took.Seconds(), r.Why)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(file+".tmp", []byte(text.String()), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".tmp", file)
}

// leaves are the leaves in the order in which they are shown.
func (rs results) leaves() []leaf {
	var all []leaf
	for l := range rs {
		all = append(all, l)
	}
	slices.SortFunc(all, func(a, b leaf) int {
		return cmp.Or(strings.Compare(a.Package, b.Package), strings.Compare(a.Name, b.Name))
	})
	return all
}

// summary prints how many passed, failed and were skipped, per package.
func (rs results) summary(w io.Writer) {
	type counts map[outcome]int
	per, all := map[string]counts{}, counts{}
	var order []string
	for _, l := range rs.leaves() {
		if per[l.Package] == nil {
			per[l.Package] = counts{}
			order = append(order, l.Package)
		}
		per[l.Package][rs[l].Outcome]++
		all[rs[l].Outcome]++
	}
	line := func(name string, c counts) {
		fmt.Fprintf(w, "%-28s %4d passed %4d failed %4d skipped\n", name, c[passed], c[failed], c[skipped])
	}
	for _, p := range order {
		line(p, per[p])
	}
	line("all", all)
}
