package instruction

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A Part is a kind of exports that IMPORT --only names.
type Part string

// The parts of what is exported. Meta is labels, ports and volumes.
const (
	PartFiles Part = "files"
	PartEnv   Part = "env"
	PartMeta  Part = "meta"
	PartRun   Part = "run"
)

// Import replays what stages, contexts or images export.
type Import struct {
	*Pos
	Refs      []string
	Groups    []string // of the only ref; none means all
	Platform  string
	EnvPrefix string
	Only      []Part // none means all
	NoRun     bool
	Link      bool
	Strict    bool // conflicts are errors
}

// Wants reports whether a part is to be imported.
func (in *Import) Wants(p Part) bool {
	if p == PartRun && in.NoRun {
		return false
	}
	return len(in.Only) == 0 || slices.Contains(in.Only, p)
}

var envPrefix = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func parseImport(r *request) (Instruction, error) {
	text, err := r.operand()
	if err != nil {
		return nil, err
	}
	platform, prefix, only := &flag{name: "platform"}, &flag{name: "env-prefix"}, &flag{name: "only"}
	noRun, link := &flag{name: "no-run", kind: boolean}, &flag{name: "link", kind: boolean}
	conflict, from := &flag{name: "on-conflict", value: "last"}, &flag{name: "from"}
	if err := parseFlags(r.flags, platform, prefix, only, noRun, link, conflict, from); err != nil {
		return nil, err
	}
	in := &Import{
		Pos: r.Pos, Refs: strings.Fields(text), Platform: platform.value, EnvPrefix: prefix.value, NoRun: noRun.on, Link: link.on,
	}
	if from.set {
		if from.value == "" {
			return nil, errors.New("missing a value on flag: --from")
		}
		in.Refs, in.Groups = []string{from.value}, in.Refs
		for _, g := range in.Groups {
			if !exportGroup.MatchString(g) {
				return nil, fmt.Errorf("invalid export group %q behind --from", g)
			}
		}
	}
	if len(in.Refs) == 0 {
		return nil, errors.New("IMPORT requires a stage, a context or an image")
	}
	for _, ref := range in.Refs {
		if hasVariable(ref) {
			return nil, fmt.Errorf("IMPORT: variables are not expanded in %q: name a stage with FROM %s AS NAME and import that", ref, ref)
		}
		if strings.HasPrefix(ref, "--") {
			return nil, fmt.Errorf("IMPORT: the flag %s comes too late: flags stand before names", ref)
		}
	}
	if prefix.set && !envPrefix.MatchString(prefix.value) {
		return nil, fmt.Errorf("invalid --env-prefix %q", prefix.value)
	}
	if only.set {
		for _, p := range strings.Split(only.value, ",") {
			parts := []string{string(PartFiles), string(PartEnv), string(PartMeta), string(PartRun)}
			if !slices.Contains(parts, p) {
				return nil, Suggest(fmt.Errorf("--only=%s: want some of files, env, meta and run", only.value), p, parts)
			}
			in.Only = append(in.Only, Part(p))
		}
	}
	if modes := []string{"last", "error"}; !slices.Contains(modes, conflict.value) {
		return nil, Suggest(fmt.Errorf("--on-conflict wants last or error, not %q", conflict.value), conflict.value, modes)
	}
	in.Strict = conflict.value == "error"
	return in, nil
}
