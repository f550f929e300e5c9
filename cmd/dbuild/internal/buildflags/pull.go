package buildflags

import (
	"fmt"
	"strconv"

	"github.com/spf13/pflag"
)

// Pull is the value of --pull: true, false or eager, which is true and more.
type Pull struct {
	Newest bool // ask registries what the names of base images mean now
	Eager  bool // read their layers at once, whether or not a step needs them
}

var _ pflag.Value = (*Pull)(nil)

// Set implements pflag.Value.
func (p *Pull) Set(v string) error {
	if v == "eager" {
		*p = Pull{Newest: true, Eager: true}
		return nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return fmt.Errorf("%q is none of true, false and eager", v)
	}
	*p = Pull{Newest: b}
	return nil
}

func (p *Pull) String() string {
	if p.Eager {
		return "eager"
	}
	return strconv.FormatBool(p.Newest)
}

// Type implements pflag.Value.
func (p *Pull) Type() string { return "true|false|eager" }

// IsBoolFlag says that the flag may stand alone.
func (p *Pull) IsBoolFlag() bool { return true }
