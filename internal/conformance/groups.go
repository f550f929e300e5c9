package main

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// groups.tsv says which group of the report a test belongs to, reasons.tsv why one that a
// stock buildkitd passes fails here. The first line that matches counts.
var (
	//go:embed groups.tsv
	groupsTable string
	//go:embed reasons.tsv
	reasonsTable string
)

// A rule is a line of these tables.
type rule struct {
	match *regexp.Regexp
	text  string
}

type rules []rule

func parseRules(table string) (rules, error) {
	var all rules
	for line := range strings.Lines(table) {
		pattern, text, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if !ok {
			return nil, fmt.Errorf("%q is not a regular expression, a tab and a text", line)
		}
		match, err := regexp.Compile(pattern)
		if err != nil {
			return nil, err
		}
		all = append(all, rule{match, text})
	}
	return all, nil
}

func (rs rules) find(s, otherwise string) string {
	for _, r := range rs {
		if r.match.MatchString(s) {
			return r.text
		}
	}
	return otherwise
}

// A grouper knows the group of a leaf, which goes by the file that its test is in.
type grouper struct {
	rules rules
	files map[string]string // package/function → file, without _test.go
}

// testFunction is a test of upstream's harness.
var testFunction = regexp.MustCompile(`(?m)^func test(\w+)\(t \*testing\.T, sb integration\.Sandbox`)

func newGrouper(s *suite) (*grouper, error) {
	g := &grouper{files: map[string]string{}}
	var err error
	if g.rules, err = parseRules(groupsTable); err != nil {
		return nil, fmt.Errorf("groups.tsv: %w", err)
	}
	for _, p := range s.packages {
		sources, err := filepath.Glob(filepath.Join(s.module, p, "*_test.go"))
		if err != nil {
			return nil, err
		}
		for _, file := range sources {
			dt, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			for _, m := range testFunction.FindAllSubmatch(dt, -1) {
				g.files[p+"/"+string(m[1])] = strings.TrimSuffix(filepath.Base(file), "_test.go")
			}
		}
	}
	return g, nil
}

// function is the name of the test, such as RmSymlink of
// TestIntegration/TestRmSymlink/worker=oci.
func (l leaf) function() string {
	_, rest, _ := strings.Cut(l.Name, "/")
	name, _, _ := strings.Cut(rest, "/")
	return strings.TrimPrefix(name, "Test")
}

func (g *grouper) group(l leaf) string {
	return g.rules.find(g.files[l.Package+"/"+l.function()]+":"+l.function(), "other")
}
