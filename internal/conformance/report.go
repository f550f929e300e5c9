package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A report compares what both daemons made of the leaves.
type report struct {
	stock, dbuild results
	groups        *grouper
	reasons       rules
}

func newReport(s *suite, stock, dbuild string) (*report, error) {
	r := &report{}
	var err error
	if r.stock, err = readResults(stock); err != nil {
		return nil, err
	}
	if r.dbuild, err = readResults(dbuild); err != nil {
		return nil, err
	}
	if len(r.stock) == 0 || len(r.dbuild) == 0 {
		return nil, fmt.Errorf("results of both daemons are needed: make conformance, make conformance DAEMON=stock")
	}
	if r.groups, err = newGrouper(s); err != nil {
		return nil, err
	}
	r.reasons, err = parseRules(reasonsTable)
	return r, err
}

// missed are the leaves that the stock daemon passes and dbuild does not, by group.
func (r *report) missed() map[string][]leaf {
	m := map[string][]leaf{}
	for _, l := range r.stock.leaves() {
		if r.stock[l].Outcome == passed && r.dbuild[l].Outcome != passed {
			g := r.groups.group(l)
			m[g] = append(m[g], l)
		}
	}
	return m
}

func (r *report) reason(l leaf) string { return r.reasons.find(l.Name, "unexplained") }

// counts are the passes of a group.
type counts struct{ leaves, stock, dbuild, both int }

func (r *report) counts() map[string]*counts {
	per := map[string]*counts{}
	for _, l := range r.stock.leaves() {
		g := r.groups.group(l)
		if per[g] == nil {
			per[g] = &counts{}
		}
		c := per[g]
		c.leaves++
		stock, dbuild := r.stock[l].Outcome == passed, r.dbuild[l].Outcome == passed
		if stock {
			c.stock++
		}
		if dbuild {
			c.dbuild++
		}
		if stock && dbuild {
			c.both++
		}
	}
	return per
}

// write makes the page for docs/.
func (r *report) write(file string) error {
	var b strings.Builder
	per := r.counts()
	var all counts
	for _, c := range per {
		all.leaves += c.leaves
		all.stock += c.stock
		all.dbuild += c.dbuild
		all.both += c.both
	}
	fmt.Fprintf(&b, "# Conformance\n\nWritten by `make conformance-report`; not to be edited by hand.\n\n")
	fmt.Fprintf(&b, "BuildKit's own integration tests, of the version in go.mod, run against `dbuild daemon` and\n")
	fmt.Fprintf(&b, "against a stock buildkitd on the same machine, with the same stand-ins for base images and\n")
	fmt.Fprintf(&b, "without the internet. A leaf is one test with one entry of its matrix. No test was changed or\nleft out.\n\n")
	fmt.Fprintf(&b, "Of %d leaves a stock buildkitd passes %d; dbuild passes %d of these (%.1f %%), and %d in all.\n\n", all.leaves, all.stock, all.both, 100*float64(all.both)/float64(max(all.stock, 1)), all.dbuild)
	fmt.Fprintf(&b, "| group | leaves | stock passes | dbuild passes | of those of stock |\n|---|--:|--:|--:|--:|\n")
	for _, g := range slices.Sorted(maps.Keys(per)) {
		c := per[g]
		fmt.Fprintf(&b, "| %s | %d | %d | %d | %d |\n", g, c.leaves, c.stock, c.dbuild, c.both)
	}
	missed := r.missed()
	fmt.Fprintf(&b, "\n## What a stock buildkitd passes and dbuild does not\n\n")
	if len(missed) == 0 {
		fmt.Fprintf(&b, "Nothing.\n")
	} else {
		fmt.Fprintf(&b, "| test | reason |\n|---|---|\n")
	}
	for _, g := range slices.Sorted(maps.Keys(missed)) {
		for _, l := range missed[g] {
			fmt.Fprintf(&b, "| %s `%s` | %s |\n", l.Package, l.Name, r.reason(l))
		}
	}
	fmt.Fprintf(&b, "\n## What neither passes\n\n| test | dbuild | stock says |\n|---|---|---|\n")
	for _, l := range r.stock.leaves() {
		if r.stock[l].Outcome != passed && r.dbuild[l].Outcome != passed {
			fmt.Fprintf(&b, "| %s `%s` | %s | %s: %s |\n", l.Package, l.Name, r.dbuild[l].Outcome, r.stock[l].Outcome, cell(r.stock[l].Why))
		}
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(b.String()), 0o644)
}

// print shows what is left to do, with the first thing that went wrong in each leaf.
func (r *report) print() {
	missed := r.missed()
	for _, g := range slices.Sorted(maps.Keys(missed)) {
		fmt.Printf("## %s (%d)\n", g, len(missed[g]))
		for _, l := range missed[g] {
			res := r.dbuild[l]
			if res.Outcome == "" {
				res = result{Why: "was not run"}
			}
			fmt.Printf("- %s %s: %s [%s]\n", l.Package, l.Name, res.Why, r.reason(l))
		}
	}
}

// cell makes text fit a table.
func cell(s string) string {
	if r := []rune(s); len(r) > 120 {
		s = string(r[:120]) + "…"
	}
	return strings.ReplaceAll(s, "|", `\|`)
}
