package instruction

import (
	"fmt"
	"strings"
)

// A flag is an option of an instruction, "--name=value".
type flag struct {
	name   string
	kind   flagKind
	set    bool
	on     bool     // of a boolean
	value  string   // of a single value
	values []string // of a repeatable one
}

type flagKind int

const (
	single flagKind = iota
	boolean
	repeated
	optional // a single value that may be left out, as in --reset
)

// tri is the flag's value if it was given.
func (f *flag) tri() *bool {
	if !f.set {
		return nil
	}
	on := f.on
	return &on
}

func parseFlags(args []string, known ...*flag) error {
	for _, arg := range args {
		if arg == "--" {
			return nil
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
		var f *flag
		names := make([]string, len(known))
		for i, k := range known {
			if names[i] = k.name; k.name == name {
				f = k
			}
		}
		if f == nil {
			return Suggest(fmt.Errorf("unknown flag: --%s", name), name, names)
		}
		if f.set && f.kind != repeated {
			return fmt.Errorf("duplicate flag specified: --%s", name)
		}
		if (f.kind != boolean && f.kind != optional && !hasValue) || (f.kind == boolean && hasValue && value == "") {
			return fmt.Errorf("missing a value on flag: --%s", name)
		}
		f.set = true
		switch f.kind {
		case single, optional:
			f.value = value
		case repeated:
			f.values = append(f.values, value)
		case boolean:
			switch strings.ToLower(value) {
			case "", "true":
				f.on = true
			case "false":
				f.on = false
			default:
				return fmt.Errorf("flag --%s wants true or false, not %q", name, value)
			}
		}
	}
	return nil
}
