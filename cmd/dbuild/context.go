package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/contextfs"
	"github.com/dbuild/dbuild/internal/ignore"
	units "github.com/docker/go-units"
	"github.com/spf13/cobra"
)

// contextCommand returns "dbuild context", which shows what of a directory a build can see.
func (a *app) contextCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "context",
		Short: "Show what of a directory is sent to a build, and why",
		Args:  noArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.contextLsCommand(), a.contextWhyCommand(), a.contextDuCommand())
	return c
}

// A shown context is a directory and its ignore file.
type shownContext struct {
	dir     string
	files   *contextfs.FS
	ignored *ignore.File
}

// A contextFormat is the value of --format: text or json.
type contextFormat struct {
	value string
	flags *buildflags.Flags
}

func contextFlags(c *cobra.Command) *contextFormat {
	f := &contextFormat{flags: someBuildFlags(c, "file", "ignorefile")}
	c.Flags().StringVar(&f.value, "format", "text", "text or json")
	fixed(c, "format", "json", "text")
	c.ValidArgsFunction = func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return f
}

// open checks the flags and finds the context.
func (f *contextFormat) open(arg string) (*shownContext, error) {
	if f.value != "text" && f.value != "json" {
		return nil, usagef("--format %s: there are text and json", f.value)
	}
	req, err := f.flags.Request(arg, buildflags.Env{Lookup: func(string) (string, bool) { return "", false }})
	if err != nil {
		return nil, err
	}
	if req.Context != buildflags.FromDir {
		return nil, usagef("%s is not a directory of this machine", arg)
	}
	s := &shownContext{dir: req.Locals[buildflags.LocalContext]}
	if s.files, err = contextfs.New(s.dir); err != nil {
		return nil, err
	}
	s.ignored, err = mainIgnore(req, &lent{locals: req.Locals})
	return s, err
}

func (s *shownContext) entries(ctx context.Context, fn func(contextfs.Entry) error) error {
	return s.files.Entries(ctx, contextfs.Patterns{Exclude: s.ignored.Patterns()}, fn)
}

func (a *app) contextLsCommand() *cobra.Command {
	c := &cobra.Command{Use: "ls [flags] [PATH]", Short: "List what is sent", Args: atMostOne}
	f := contextFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := f.open(contextArg(args))
		if err != nil {
			return err
		}
		enc := json.NewEncoder(a.stdout)
		return s.entries(cmd.Context(), func(e contextfs.Entry) error {
			if f.value == "json" {
				return enc.Encode(struct {
					Path string `json:"path"`
					Mode string `json:"mode"`
					Size int64  `json:"size"`
					Link string `json:"link,omitempty"`
				}{e.Path, e.Mode.String(), e.Size, e.Link})
			}
			slash := ""
			if e.Mode.IsDir() {
				slash = "/"
			}
			_, err := fmt.Fprintln(a.stdout, e.Path+slash)
			return err
		})
	}
	return c
}

func (a *app) contextWhyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "why [flags] FILE [PATH]",
		Short: "Say which line of which ignore file decides about FILE, a path in the context PATH",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usagef("a FILE is needed, and a PATH if the context is not the current directory")
			}
			return nil
		},
	}
	f := contextFlags(c)
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := f.open(contextArg(args[1:]))
		if err != nil {
			return err
		}
		w, err := s.why(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if f.value == "json" {
			return json.NewEncoder(a.stdout).Encode(w)
		}
		_, err = fmt.Fprintf(a.stdout, "%s: %s: %s\n", w.Path, w.outcome(), w.Reason)
		return err
	}
	return c
}

// A why is the answer to why a path is sent or not.
type why struct {
	Path   string `json:"path"`
	Exists bool   `json:"exists"`
	Sent   bool   `json:"sent"`
	File   string `json:"ignoreFile,omitempty"`
	Line   int    `json:"line,omitempty"`
	// Pattern decided; it matches the directory Parent if that is there.
	Pattern string `json:"pattern,omitempty"`
	Parent  string `json:"parent,omitempty"`
	Reason  string `json:"reason"`
}

func (w *why) outcome() string {
	switch {
	case w.Sent:
		return "sent"
	case !w.Exists && w.Line == 0:
		return "no such file"
	case !w.Exists:
		return "not sent (and there is no such file)"
	}
	return "not sent"
}

// why explains a path, which may be absolute or relative to the context.
func (s *shownContext) why(ctx context.Context, name string) (*why, error) {
	if filepath.IsAbs(name) {
		abs, err := filepath.Abs(s.dir)
		if err != nil {
			return nil, err
		}
		if rel, err := filepath.Rel(abs, name); err == nil {
			name = rel
		}
	}
	rel := filepath.Clean(name)
	if rel == ".." || strings.HasPrefix(rel, "../") {
		return nil, fmt.Errorf("%s is outside of the context %s", name, s.dir)
	}
	v, err := s.ignored.Explain(rel)
	if err != nil {
		return nil, err
	}
	w := &why{Path: rel, Reason: v.String(), Parent: v.Parent}
	fi, err := os.Lstat(filepath.Join(s.dir, rel))
	w.Exists = err == nil
	w.Sent = w.Exists && !v.Excluded
	if v.By == nil {
		if s.ignored.Name == "" {
			w.Reason = "there is no ignore file"
		}
		return w, nil
	}
	w.File, w.Line, w.Pattern = v.File, v.By.Line, v.By.Text
	if !w.Exists || !v.Excluded || !fi.IsDir() {
		return w, nil
	}
	inside, err := s.sentInside(ctx, rel)
	if err == nil && inside != "" {
		w.Sent = true
		w.Reason += fmt.Sprintf(", but %s in it is sent", inside)
	}
	return w, err
}

// sentInside returns something that is sent of a directory which is left out itself, if
// there is anything.
func (s *shownContext) sentInside(ctx context.Context, dir string) (string, error) {
	found := ""
	err := s.entries(ctx, func(e contextfs.Entry) error {
		if !e.Mode.IsDir() && strings.HasPrefix(e.Path, dir+"/") {
			found = e.Path
			return fs.SkipAll
		}
		return nil
	})
	if err == fs.SkipAll { //nolint:errorlint // ours
		err = nil
	}
	return found, err
}

func (a *app) contextDuCommand() *cobra.Command {
	depth := 1
	c := &cobra.Command{Use: "du [flags] [PATH]", Short: "Say how large the directories are that are sent, largest first", Args: atMostOne}
	f := contextFlags(c)
	c.Flags().IntVarP(&depth, "depth", "d", depth, "how many levels of directories to show")
	c.RunE = func(cmd *cobra.Command, args []string) error {
		s, err := f.open(contextArg(args))
		if err != nil {
			return err
		}
		sums, err := s.sums(cmd.Context(), depth)
		if err != nil {
			return err
		}
		if f.value == "json" {
			enc := json.NewEncoder(a.stdout)
			for _, d := range sums {
				if err := enc.Encode(d); err != nil {
					return err
				}
			}
			return nil
		}
		tw := tabwriter.NewWriter(a.stdout, 1, 8, 2, ' ', 0)
		fmt.Fprintln(tw, "SIZE\tFILES\tPATH")
		for _, d := range sums {
			fmt.Fprintf(tw, "%s\t%d\t%s\n", units.HumanSize(float64(d.Size)), d.Files, d.Path)
		}
		return tw.Flush()
	}
	return c
}

// A dirSize is what is sent of a directory and of all below it. "." is the context.
type dirSize struct {
	Path  string `json:"path"`
	Size  int64  `json:"size"` // bytes
	Files int    `json:"files"`
}

// sums adds up what is sent, by directory down to depth, largest first.
func (s *shownContext) sums(ctx context.Context, depth int) ([]dirSize, error) {
	sums := map[string]*dirSize{".": {Path: "."}}
	err := s.entries(ctx, func(e contextfs.Entry) error {
		dir := path.Dir(e.Path)
		if e.Mode.IsDir() {
			dir = e.Path
		}
		for {
			if dir == "." || strings.Count(dir, "/") < depth {
				d := sums[dir]
				if d == nil {
					d = &dirSize{Path: dir}
					sums[dir] = d
				}
				d.Size += e.Size
				if !e.Mode.IsDir() {
					d.Files++
				}
			}
			if dir == "." {
				return nil
			}
			dir = path.Dir(dir)
		}
	})
	out := make([]dirSize, 0, len(sums))
	for _, d := range sums {
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b dirSize) int {
		return cmp.Or(cmp.Compare(b.Size, a.Size), strings.Compare(a.Path, b.Path))
	})
	return out, err
}
