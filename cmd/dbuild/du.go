package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"text/template"
	"time"

	units "github.com/docker/go-units"
	"github.com/moby/buildkit/client"
	"github.com/spf13/cobra"
)

// duCommand returns "dbuild du", which lists what the cache keeps.
func (a *app) duCommand() *cobra.Command {
	var filters []string
	var l listing
	c := &cobra.Command{
		Use:   "du",
		Short: "List what the build cache keeps",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := parseFilters(filters)
			if err != nil {
				return err
			}
			print, err := l.printer(a.stdout)
			if err != nil {
				return err
			}
			d, err := a.connect(cmd.Context())
			if err != nil {
				return err
			}
			defer d.Close()
			records, err := d.DiskUsage(cmd.Context(), client.WithFilter(q.filters), client.WithAgeLimit(q.age))
			if err != nil {
				return err
			}
			slices.Reverse(records) // largest first
			for _, r := range records {
				if err := print.record(r); err != nil {
					return err
				}
			}
			return print.end()
		},
	}
	f := c.Flags()
	f.StringArrayVar(&filters, "filter", nil, `show what matches ("type=regular", "until=24h", "id=...")`)
	l.flags(c)
	completeFilters(c)
	return c
}

func completeFilters(c *cobra.Command) {
	fixed(c, "filter", "description=", "id=", "immutable", "inuse", "mutable", "parents=", "private", "shared",
		"type=exec.cachemount", "type=frontend", "type=internal", "type=regular", "type=source.git.checkout", "type=source.local", "until=")
	fixed(c, "format", "json", "table")
}

// A query says which records are meant.
type query struct {
	filters []string      // in containerd's syntax; a record matches any
	age     time.Duration // not used for so long
}

// parseFilters reads key=value, where commas mean "and". What is in containerd's syntax
// already is passed on.
func parseFilters(values []string) (query, error) {
	var q query
	for _, v := range values {
		var parts []string
		for _, part := range strings.Split(v, ",") {
			if strings.Contains(part, "==") || strings.Contains(part, "!=") || strings.Contains(part, "~=") {
				parts = append(parts, part)
				continue
			}
			key, value, hasValue := strings.Cut(part, "=")
			switch key {
			case "until", "unused-for":
				age, err := parseAge("--filter "+key, value)
				if err != nil {
					return q, err
				}
				q.age = age
			case "id", "type", "description", "parents":
				if !hasValue {
					return q, usagef("--filter %s: the value is missing", part)
				}
				parts = append(parts, key+"=="+strconv.Quote(value))
			case "parent":
				parts = append(parts, "parents=="+strconv.Quote(value))
			case "inuse", "mutable", "immutable", "shared", "private":
				opposite := map[string]string{"mutable": "immutable", "immutable": "mutable", "shared": "private", "private": "shared"}
				yes := true
				if hasValue {
					var err error
					if yes, err = strconv.ParseBool(value); err != nil {
						return q, usagef("--filter %s: %q is neither true nor false", part, value)
					}
				}
				if !yes {
					if key = opposite[key]; key == "" {
						return q, usagef("--filter %s cannot be expressed", part)
					}
				}
				parts = append(parts, key)
			default:
				return q, usagef("--filter %s: unknown key %q; there are id, type, description, parents, inuse, mutable, immutable, shared, private and until", v, key)
			}
		}
		if len(parts) > 0 {
			q.filters = append(q.filters, strings.Join(parts, ","))
		}
	}
	return q, nil
}

// listing is how records are printed.
type listing struct {
	format  string
	verbose bool
}

func (l *listing) flags(c *cobra.Command) {
	c.Flags().StringVar(&l.format, "format", "", `"json", or a Go template for each record ("{{.ID}}")`)
	c.Flags().BoolVarP(&l.verbose, "verbose", "v", false, "print all that is known")
}

// A printer prints records, and sums at the end.
type printer struct {
	record func(*client.UsageInfo) error
	end    func() error
}

func (l *listing) printer(w io.Writer) (*printer, error) {
	if l.verbose && l.format != "" {
		return nil, usagef("--format and --verbose exclude each other")
	}
	switch l.format {
	case "", "table":
		return l.table(w), nil
	case "json":
		enc := json.NewEncoder(w)
		return &printer{record: func(r *client.UsageInfo) error { return enc.Encode(r) }, end: func() error { return nil }}, nil
	}
	t, err := template.New("").Funcs(template.FuncMap{
		"json": func(v any) (string, error) { b, err := json.Marshal(v); return string(b), err },
		"size": func(n int64) string { return units.HumanSize(float64(n)) },
	}).Parse(l.format + "\n")
	if err != nil {
		return nil, usagef("--format: %w", err)
	}
	return &printer{record: func(r *client.UsageInfo) error { return t.Execute(w, r) }, end: func() error { return nil }}, nil
}

func (l *listing) table(w io.Writer) *printer {
	var total, reclaimable, shared int64
	rows := 0
	tw := tabwriter.NewWriter(w, 1, 8, 2, ' ', 0)
	p := &printer{}
	p.record = func(r *client.UsageInfo) error {
		total += r.Size
		if !r.InUse {
			reclaimable += r.Size
		}
		if r.Shared {
			shared += r.Size
		}
		if l.verbose {
			describe(w, r)
			return nil
		}
		if rows++; rows == 1 {
			fmt.Fprintln(tw, "ID\tRECLAIMABLE\tSIZE\tLAST ACCESSED")
		}
		id := r.ID
		if r.Mutable {
			id += "*"
		}
		fmt.Fprintf(tw, "%s\t%t\t%s\t%s\n", id, !r.InUse, units.HumanSize(float64(r.Size)), ago(r.LastUsedAt))
		return nil
	}
	p.end = func() error {
		if err := tw.Flush(); err != nil {
			return err
		}
		if shared > 0 {
			fmt.Fprintf(tw, "Shared:\t%s\nPrivate:\t%s\n", units.HumanSize(float64(shared)), units.HumanSize(float64(total-shared)))
		}
		fmt.Fprintf(tw, "Reclaimable:\t%s\nTotal:\t%s\n", units.HumanSize(float64(reclaimable)), units.HumanSize(float64(total)))
		return tw.Flush()
	}
	return p
}

// describe prints all that is known of a record.
func describe(w io.Writer, r *client.UsageInfo) {
	tw := tabwriter.NewWriter(w, 1, 8, 1, ' ', 0)
	fmt.Fprintf(tw, "ID:\t%s\n", r.ID)
	for _, p := range r.Parents {
		fmt.Fprintf(tw, "Parent:\t%s\n", p)
	}
	fmt.Fprintf(tw, "Created at:\t%s\nMutable:\t%t\nReclaimable:\t%t\nShared:\t%t\nSize:\t%s\n",
		r.CreatedAt.UTC().Format(time.RFC3339), r.Mutable, !r.InUse, r.Shared, units.HumanSize(float64(r.Size)))
	if r.Description != "" {
		fmt.Fprintf(tw, "Description:\t%s\n", r.Description)
	}
	fmt.Fprintf(tw, "Usage count:\t%d\n", r.UsageCount)
	if r.LastUsedAt != nil {
		fmt.Fprintf(tw, "Last used:\t%s\n", ago(r.LastUsedAt))
	}
	if r.RecordType != "" {
		fmt.Fprintf(tw, "Type:\t%s\n", r.RecordType)
	}
	fmt.Fprintln(tw)
	_ = tw.Flush()
}

func ago(t *time.Time) string {
	if t == nil {
		return ""
	}
	return units.HumanDuration(time.Since(*t)) + " ago"
}
