package buildflags

import (
	"fmt"
	"slices"
	"strings"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/suggest"
)

// A Call asks the frontend something other than to build.
type Call struct {
	Method string // name of the subrequest; empty to build
	Format string // how to print the answer: "", text or json; of checks sarif or github, too
}

var calls = map[string]string{
	"build":   "",
	"check":   "frontend.lint",
	"lint":    "frontend.lint",
	"outline": "frontend.outline",
	"targets": "frontend.targets",
	// Not in the help: the answer is for programs, such as "dbuild debug dump-llb".
	"convertllb": "frontend.convertllb",
}

// call reads --call, --check and the older --print.
func (f *Flags) call() (Call, error) {
	value := f.Call
	if old := f.fs.Lookup("print"); old != nil && old.Changed {
		value = old.Value.String()
	}
	if f.Check {
		if name, _, _ := strings.Cut(f.Call, ","); f.given("call") && name != "check" {
			return Call{}, fmt.Errorf("--check and --call=%s exclude each other", f.Call)
		} else if name != "check" {
			value = "check"
		}
	}
	name, options, _ := strings.Cut(value, ",")
	method, ok := calls[name]
	if !ok && strings.HasPrefix(name, "subrequests.") {
		method, ok = "frontend."+name, true
	}
	if !ok {
		known := []string{"build", "check", "outline", "targets"}
		hint := ""
		if s := suggest.Nearest(name, known); s != "" {
			hint = fmt.Sprintf(" (did you mean %s?)", s)
		}
		return Call{}, fmt.Errorf("--call %s: unknown method%s; there are %s", name, hint, strings.Join(known, ", "))
	}
	c := Call{Method: method}
	if options != "" {
		formats := []string{"text", "json"}
		if method == calls["check"] {
			formats = append(formats, "sarif", "github")
		}
		key, v, _ := strings.Cut(options, "=")
		if key != "format" || !slices.Contains(formats, v) {
			return Call{}, fmt.Errorf("--call %s: the only option is format=%s", value, strings.Join(formats, "|"))
		}
		c.Format = v
	}
	return c, nil
}
