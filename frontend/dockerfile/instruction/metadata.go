package instruction

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// parsers maps a keyword in lower case to what makes the typed instruction.
var parsers map[string]func(*request) (Instruction, error)

func init() { // not a literal: ONBUILD looks at the table
	parsers = map[string]func(*request) (Instruction, error){
		"add":         parseAdd,
		"arg":         parseArg,
		"cmd":         parseCmd,
		"copy":        parseCopy,
		"entrypoint":  parseEntrypoint,
		"env":         parseEnv,
		"export":      parseExport,
		"expose":      parseExpose,
		"from":        parseFrom,
		"healthcheck": parseHealthcheck,
		"import":      parseImport,
		"label":       parseLabel,
		"maintainer":  parseMaintainer,
		"onbuild":     parseOnBuild,
		"run":         parseRun,
		"shell":       parseShell,
		"stopsignal":  parseStopSignal,
		"user":        parseUser,
		"volume":      parseVolume,
		"workdir":     parseWorkdir,
	}
}

// keyValues takes the triples of key, value and delimiter that the parser yields.
func (r *request) keyValues() ([]KeyValue, error) {
	if err := errors.Join(r.noFlags(), r.some()); err != nil {
		return nil, err
	}
	if len(r.args)%3 != 0 {
		return nil, fmt.Errorf("%s needs pairs of a name and a value", r.name)
	}
	var out []KeyValue
	for a := range slices.Chunk(r.args, 3) {
		if a[0] == "" {
			return nil, fmt.Errorf("%s names can not be blank", r.name)
		}
		out = append(out, KeyValue{Key: a[0], Value: a[1], Legacy: a[2] == ""})
	}
	return out, nil
}

func parseEnv(r *request) (Instruction, error) {
	kv, err := r.keyValues()
	return &Env{Pos: r.Pos, Vars: kv}, err
}

func parseLabel(r *request) (Instruction, error) {
	kv, err := r.keyValues()
	return &Label{Pos: r.Pos, Labels: kv}, err
}

func parseArg(r *request) (Instruction, error) {
	if err := errors.Join(r.noFlags(), r.some()); err != nil {
		return nil, err
	}
	in := &Arg{Pos: r.Pos}
	for _, a := range r.args {
		key, value, ok := strings.Cut(a, "=")
		if key == "" {
			return nil, errors.New("ARG names can not be blank")
		}
		v := ArgValue{Key: key, Doc: r.doc(key)}
		if ok {
			v.Default = &value
		}
		in.Args = append(in.Args, v)
	}
	return in, nil
}

func parseMaintainer(r *request) (Instruction, error) {
	name, err := r.one()
	return &Maintainer{Pos: r.Pos, Name: name}, errors.Join(err, r.noFlags())
}

func parseWorkdir(r *request) (Instruction, error) {
	p, err := r.one()
	return &Workdir{Pos: r.Pos, Path: p}, errors.Join(err, r.noFlags())
}

func parseUser(r *request) (Instruction, error) {
	name, err := r.one()
	return &User{Pos: r.Pos, Name: name}, errors.Join(err, r.noFlags())
}

func parseStopSignal(r *request) (Instruction, error) {
	sig, err := r.one()
	return &StopSignal{Pos: r.Pos, Signal: sig}, errors.Join(err, r.noFlags())
}

func parseShell(r *request) (Instruction, error) {
	if err := errors.Join(r.noFlags(), r.some()); err != nil {
		return nil, err
	}
	if !r.json {
		return nil, errors.New("SHELL requires the arguments to be in JSON form")
	}
	return &Shell{Pos: r.Pos, Args: r.args}, nil
}

func parseCmd(r *request) (Instruction, error) {
	return &Cmd{Pos: r.Pos, CommandLine: r.commandLine()}, r.noFlags()
}

func parseEntrypoint(r *request) (Instruction, error) {
	line := r.commandLine()
	if len(line.Args) == 0 {
		line.Args = nil // `ENTRYPOINT []` removes the entry point
	}
	return &Entrypoint{Pos: r.Pos, CommandLine: line}, r.noFlags()
}

func parseExpose(r *request) (Instruction, error) {
	if err := errors.Join(r.noFlags(), r.some()); err != nil {
		return nil, err
	}
	slices.Sort(r.args)
	return &Expose{Pos: r.Pos, Ports: r.args}, nil
}

func parseVolume(r *request) (Instruction, error) {
	if err := errors.Join(r.noFlags(), r.some()); err != nil {
		return nil, err
	}
	in := &Volume{Pos: r.Pos}
	for _, p := range r.args {
		if p = strings.TrimSpace(p); p == "" {
			return nil, errors.New("VOLUME needs a path, not an empty string")
		}
		in.Paths = append(in.Paths, p)
	}
	return in, nil
}

func parseOnBuild(r *request) (Instruction, error) {
	if err := errors.Join(r.noFlags(), r.some()); err != nil {
		return nil, err
	}
	switch name := strings.ToLower(r.args[0]); name {
	case "onbuild", "from", "maintainer":
		return nil, fmt.Errorf("%s isn't allowed as an ONBUILD trigger", strings.ToUpper(name))
	default:
		if _, ok := parsers[name]; !ok {
			return nil, Suggest(fmt.Errorf("unknown instruction: %s", r.args[0]), r.args[0], keywords(r.args[0]))
		}
	}
	var b strings.Builder
	b.WriteString(strings.TrimLeft(strings.TrimLeft(r.Source[len("ONBUILD"):], " \t"), "\v\f\r\n"))
	for _, h := range r.heredocs {
		b.WriteString("\n" + h.Content + h.Name)
	}
	return &OnBuild{Pos: r.Pos, Trigger: b.String()}, nil
}

func parseHealthcheck(r *request) (Instruction, error) {
	if err := r.some(); err != nil {
		return nil, err
	}
	in := &Healthcheck{Pos: r.Pos}
	typ := strings.ToUpper(r.args[0])
	r.args = r.args[1:]
	if typ == "NONE" {
		if len(r.args) != 0 {
			return nil, errors.New("HEALTHCHECK NONE takes no arguments")
		}
		in.Test = []string{typ}
		return in, r.noFlags()
	}
	if typ != "CMD" {
		return nil, fmt.Errorf("unknown type %q in HEALTHCHECK (try CMD)", typ)
	}
	interval, timeout := &flag{name: "interval"}, &flag{name: "timeout"}
	period, startInterval := &flag{name: "start-period"}, &flag{name: "start-interval"}
	retries := &flag{name: "retries"}
	if err := parseFlags(r.flags, interval, timeout, period, startInterval, retries); err != nil {
		return nil, err
	}
	line := r.commandLine()
	if len(line.Args) == 0 {
		return nil, errors.New("missing command after HEALTHCHECK CMD")
	}
	if line.Shell {
		typ = "CMD-SHELL"
	}
	in.Test = append([]string{typ}, line.Args...)
	for _, d := range []struct {
		to   *time.Duration
		from *flag
	}{{&in.Interval, interval}, {&in.Timeout, timeout}, {&in.StartPeriod, period}, {&in.StartInterval, startInterval}} {
		if d.from.value == "" {
			continue
		}
		v, err := time.ParseDuration(d.from.value)
		if err != nil {
			return nil, fmt.Errorf("--%s: invalid duration %q", d.from.name, d.from.value)
		}
		if v != 0 && v < time.Millisecond {
			return nil, fmt.Errorf("--%s cannot be less than %s", d.from.name, time.Millisecond)
		}
		*d.to = v
	}
	if retries.value != "" {
		n, err := strconv.ParseInt(retries.value, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("--retries: invalid number %q", retries.value)
		}
		if n < 0 {
			return nil, fmt.Errorf("--retries cannot be negative (%d)", n)
		}
		in.Retries = int(n)
	}
	return in, nil
}
