package instruction

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/tonistiigi/go-csvvalue"
)

func parseRun(r *request) (Instruction, error) {
	mount, network := &flag{name: "mount", kind: repeated}, &flag{name: "network", value: "default"}
	security, device := &flag{name: "security", value: "sandbox"}, &flag{name: "device", kind: repeated}
	var limits limitFlags
	var fresh freshnessFlags
	extensions := slices.Concat(limits.flags(), fresh.flags())
	if err := r.parseFlags([]*flag{mount, network, security, device}, extensions...); err != nil {
		return nil, err
	}
	if modes := []string{"default", "none", "host"}; !slices.Contains(modes, network.value) {
		return nil, Suggest(fmt.Errorf("invalid network mode %q", network.value), network.value, modes)
	}
	if modes := []string{"sandbox", "insecure"}; !slices.Contains(modes, security.value) {
		return nil, Suggest(fmt.Errorf("security %q is not valid", security.value), security.value, modes)
	}
	in := &Run{
		Pos:         r.Pos,
		CommandLine: r.commandLine(),
		Mounts:      mount.values,
		Network:     network.value,
		Security:    security.value,
	}
	for _, h := range r.heredocs {
		in.Heredocs = append(in.Heredocs, Heredoc{Name: h.Name, Data: h.Content, Expand: h.Expand, Chomp: h.Chomp})
	}
	if len(in.Heredocs) > 0 && (len(in.Args) != 1 || !in.Shell) {
		return nil, errors.New("a heredoc needs the shell form of RUN")
	}
	if len(in.Args) == 0 {
		return nil, errors.New("RUN requires a command")
	}
	var err error
	if in.Limits, err = limits.parse(); err != nil {
		return nil, err
	}
	if in.Fresh, err = fresh.parse(); err != nil {
		return nil, err
	}
	for _, m := range mount.values {
		from, context, err := r.checkMount(m)
		if err != nil {
			return nil, err
		}
		in.From = append(in.From, from)
		in.Context = in.Context || context
	}
	for _, d := range device.values {
		dev, err := parseDevice(d)
		if err != nil {
			return nil, err
		}
		in.Devices = append(in.Devices, dev)
	}
	return in, nil
}

// checkMount finds what is wrong with a mount whatever its variables will be, what it is
// from, and whether that may be the build context.
func (r *request) checkMount(text string) (from string, context bool, err error) {
	if !strings.Contains(text, "$") {
		var lex *shell.Lex // of a few kilobytes, which hardly any mount needs
		m, err := ParseMount(text, func(word string) (string, error) {
			if !strings.ContainsAny(word, "'\"<"+string(r.escape)) {
				return word, nil
			}
			if lex == nil {
				lex = shell.NewLex(r.escape)
			}
			v, _, err := lex.ProcessWord(word, noEnv{})
			return v, err
		})
		if err != nil {
			return "", false, err
		}
		return m.From, m.From == "" && m.Type == Bind, nil
	}
	fields, err := csvvalue.Fields(text, nil)
	if err != nil {
		return "", false, fmt.Errorf("--mount=%s is not a valid list: %w", text, err)
	}
	for _, f := range fields {
		key, value, ok := strings.Cut(f, "=")
		if ok && strings.EqualFold(key, "from") {
			if hasVariable(value) && r.dialect == Plain {
				return "", false, errors.New("'from' doesn't support variable expansion, define alias stage instead; \"# dbuild=1\" at the head of the Dockerfile turns it on")
			}
			from = value
		}
	}
	return from, from == "", nil
}

func parseDevice(text string) (d Device, err error) {
	fields, err := csvvalue.Fields(text, nil)
	if err != nil {
		return d, fmt.Errorf("--device=%s is not a valid list: %w", text, err)
	}
	for _, f := range fields {
		key, value, ok := strings.Cut(f, "=")
		switch key = strings.ToLower(key); {
		case key == "required" && !ok:
			d.Required = true
		case key == "required":
			if d.Required, err = strconv.ParseBool(value); err != nil {
				return d, fmt.Errorf("invalid value for required: %s", value)
			}
		case key == "name" && ok:
			if d.Name != "" {
				return d, fmt.Errorf("device name already set to %s", d.Name)
			}
			d.Name = value
		case d.Name == "":
			d.Name = f
		default:
			return d, Suggest(fmt.Errorf("unexpected key '%s' in '%s'", key, f), key, []string{"name", "required"})
		}
	}
	return d, nil
}

// noEnv is an empty environment.
type noEnv struct{}

func (noEnv) Get(string) (string, bool) { return "", false }
func (noEnv) Keys() []string            { return nil }
