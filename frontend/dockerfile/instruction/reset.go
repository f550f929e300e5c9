package instruction

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// A Reset is a part of an image's config that FROM --reset drops. Pattern is the name of a
// variable or a pattern of labels; empty for all of them.
type Reset struct{ What, Pattern string }

// resets are the parts there are.
var resets = []string{
	"env", "label", "volume", "expose", "entrypoint", "cmd", "user", "workdir", "healthcheck", "onbuild", "stopsignal", "shell",
}

// parseReset reads the value of --reset, a list; none means everything.
func parseReset(text string) (out []Reset, err error) {
	if text == "" {
		for _, what := range resets {
			out = append(out, Reset{What: what})
		}
		return out, nil
	}
	for word := range strings.SplitSeq(text, ",") {
		what, pattern, some := strings.Cut(word, ":")
		what = strings.ToLower(strings.TrimSpace(what))
		switch {
		case !slices.Contains(resets, what):
			err := Suggest(fmt.Errorf("--reset: unknown part %q of an image's config", what), what, resets)
			return nil, fmt.Errorf("%w; the parts are %s", err, strings.Join(resets, ", "))
		case some && what != "env" && what != "label":
			return nil, fmt.Errorf("--reset=%s: only env and label have names; write --reset=%s", word, what)
		case some && pattern == "":
			return nil, fmt.Errorf("--reset=%s: a name is missing behind the colon", word)
		}
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, fmt.Errorf("--reset=%s: %q is not a valid pattern", word, pattern)
		}
		out = append(out, Reset{What: what, Pattern: pattern})
	}
	return out, nil
}
