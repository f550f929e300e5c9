package dockerfile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/pb"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

// An outline lists what a build of a target can be given.
type outline struct {
	Name        string         `json:"name,omitempty"`
	Description string         `json:"description,omitempty"`
	Args        []outlineArg   `json:"args,omitempty"`
	Secrets     []outlineLent  `json:"secrets,omitempty"`
	SSH         []outlineLent  `json:"ssh,omitempty"`
	Cache       []outlineCache `json:"cache,omitempty"`
	Sources     [][]byte       `json:"sources,omitempty"`
}

type outlineArg struct {
	Name        string       `json:"name"`
	Description string       `json:"description,omitempty"`
	Value       string       `json:"value,omitempty"`
	Location    *pb.Location `json:"location,omitempty"`
}

// An outlineLent is a secret or an agent that the client is to lend.
type outlineLent struct {
	Name     string       `json:"name"`
	Required bool         `json:"required,omitempty"`
	Location *pb.Location `json:"location,omitempty"`
}

type outlineCache struct {
	ID       string       `json:"ID"`
	Location *pb.Location `json:"location,omitempty"`
}

// outline answers the subrequest for the parameters of a build.
func (l *loader) outline(ctx context.Context) (*frontend.Result, error) {
	file, err := l.parse(ctx)
	if err != nil {
		return nil, err
	}
	b := newBuild(l, file, l.opts.firstPlatform())
	if _, err := b.convert(ctx); err != nil {
		return nil, err
	}
	target, err := b.findTarget()
	if err != nil {
		return nil, err
	}
	from := file.Stages[target.index].From
	o := outline{Name: from.Name, Description: from.Doc, Sources: l.texts()}
	o.Args = b.outlineArgs()
	o.addMounts(l, b.stages)
	return answer("1.0.0", o, o.print)
}

// outlineArgs lists the arguments that the needed stages declare, and the global ones that
// their bases or these arguments depend on.
func (b *build) outlineArgs() []outlineArg {
	docs := map[string]string{}
	for _, in := range b.file.Global {
		for _, a := range in.Args {
			if a.Doc != "" {
				docs[a.Key] = a.Doc
			}
		}
	}
	var args []outlineArg
	seen, used := map[string]bool{}, map[string]bool{}
	for _, s := range slices.Backward(b.stages) {
		if !s.needed || s.context != nil {
			continue
		}
		from := b.file.Stages[s.index].From
		b.useGlobals(used, from.Base)
		b.useGlobals(used, from.Platform)
		for _, a := range slices.Backward(s.args) { // of two of a name, the last counts
			if a.global {
				b.useGlobal(used, a.key)
			}
			if seen[a.key] {
				continue
			}
			seen[a.key] = true
			arg := outlineArg{Name: a.key, Description: a.doc, Location: b.loader.location(a.at)}
			if a.value != nil {
				arg.Value = *a.value
			}
			if arg.Description == "" && a.global {
				arg.Description = docs[a.key]
			}
			args = append(args, arg)
		}
	}
	for _, in := range slices.Backward(b.file.Global) {
		for _, a := range slices.Backward(in.Args) {
			if !used[a.Key] || seen[a.Key] {
				continue
			}
			seen[a.Key] = true
			value, _ := b.global.Get(a.Key)
			args = append(args, outlineArg{
				Name: a.Key, Description: docs[a.Key], Value: value, Location: b.loader.location(in.Ranges),
			})
		}
	}
	slices.Reverse(args) // those of one line come in its order
	slices.SortStableFunc(args, func(a, b outlineArg) int { return firstLine(a.Location) - firstLine(b.Location) })
	return args
}

// useGlobals marks the global arguments in a word as used.
func (b *build) useGlobals(used map[string]bool, word string) {
	if !strings.Contains(word, "$") {
		return
	}
	res, err := b.lex.ProcessWordWithMatches(word, &b.global)
	if err != nil {
		return // whoever needs the value has said so
	}
	for _, names := range []map[string]struct{}{res.Matched, res.Unmatched} {
		for name := range maps.Keys(names) {
			b.useGlobal(used, name)
		}
	}
}

// useGlobal marks a global argument, and what its defaults are made of unless a build arg
// replaces them.
func (b *build) useGlobal(used map[string]bool, name string) {
	if used[name] {
		return
	}
	used[name] = true
	if _, ok := b.args[name]; ok {
		return
	}
	for _, in := range b.file.Global {
		for _, a := range in.Args {
			if a.Key == name && a.Default != nil {
				b.useGlobals(used, *a.Default)
			}
		}
	}
}

// addMounts lists what commands ask for, each once, where it is first asked for.
func (o *outline) addMounts(l *loader, stages []*stage) {
	caches := map[string]bool{}
	for _, s := range stages {
		if !s.needed {
			continue
		}
		for _, m := range s.mounted {
			at := l.location(m.at)
			switch m.kind {
			case instruction.Secret:
				lend(&o.Secrets, m, at)
			case instruction.SSH:
				lend(&o.SSH, m, at)
			case instruction.Cache:
				if !caches[m.id] {
					caches[m.id] = true
					o.Cache = append(o.Cache, outlineCache{ID: m.id, Location: at})
				}
			}
		}
	}
	byLine := func(a, b outlineLent) int { return firstLine(a.Location) - firstLine(b.Location) }
	slices.SortStableFunc(o.Secrets, byLine)
	slices.SortStableFunc(o.SSH, byLine)
	slices.SortStableFunc(o.Cache, func(a, b outlineCache) int { return firstLine(a.Location) - firstLine(b.Location) })
}

// lend adds to a list, or to what it says of the same name already.
func lend(list *[]outlineLent, m mounted, at *pb.Location) {
	for i := range *list {
		if l := &(*list)[i]; l.Name == m.id {
			l.Required = l.Required || m.required
			return
		}
	}
	*list = append(*list, outlineLent{Name: m.id, Required: m.required, Location: at})
}

func firstLine(l *pb.Location) int {
	if len(l.Ranges) == 0 {
		return 0
	}
	return int(l.Ranges[0].Start.Line)
}

// A mounted is a secret, agent or cache that a command of a stage asked for.
type mounted struct {
	kind     instruction.MountType
	id       string
	required bool
	at       []parser.Range
}

// print renders the outline as tables, one per kind of parameter.
func (o *outline) print(out *strings.Builder) {
	if o.Name != "" || o.Description != "" {
		name := o.Name
		if name == "" {
			name = "(default)"
		}
		rows := [][]string{{"TARGET:", name}}
		if o.Description != "" {
			rows = append(rows, []string{"DESCRIPTION:", o.Description})
		}
		table(out, 1, rows)
		out.WriteByte('\n')
	}
	section := func(rows [][]string) {
		if len(rows) > 1 {
			table(out, 3, rows)
			out.WriteByte('\n')
		}
	}
	rows := [][]string{{"BUILD ARG", "VALUE", "DESCRIPTION"}}
	for _, a := range o.Args {
		rows = append(rows, []string{a.Name, a.Value, a.Description})
	}
	section(rows)
	for _, kind := range []struct {
		name string
		list []outlineLent
	}{{"SECRET", o.Secrets}, {"SSH", o.SSH}} {
		rows := [][]string{{kind.name, "REQUIRED"}}
		for _, l := range kind.list {
			required := ""
			if l.Required {
				required = fmt.Sprint(l.Required)
			}
			rows = append(rows, []string{l.Name, required})
		}
		section(rows)
	}
	rows = [][]string{{"CACHE MOUNT"}}
	for _, c := range o.Cache {
		rows = append(rows, []string{c.ID})
	}
	section(rows)
}
