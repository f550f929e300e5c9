package buildflags

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/suggest"
	"github.com/spf13/pflag"
)

// Load is the value of --load: true, false or the name of an engine.
type Load struct {
	On     bool
	Engine string // one of engines; "" for the one that is there
}

var engines = []string{"containerd", "docker", "nerdctl", "podman"}

var _ pflag.Value = (*Load)(nil)

// Set implements pflag.Value.
func (l *Load) Set(v string) error {
	for _, e := range engines {
		if v == e {
			*l = Load{On: true, Engine: e}
			return nil
		}
	}
	on, err := strconv.ParseBool(v)
	if err != nil {
		hint := ""
		if s := suggest.Nearest(v, engines); s != "" {
			hint = fmt.Sprintf(" (did you mean %s?)", s)
		}
		return fmt.Errorf("%q is none of %s%s", v, strings.Join(engines, ", "), hint)
	}
	*l = Load{On: on}
	return nil
}

func (l *Load) String() string {
	if l.Engine != "" {
		return l.Engine
	}
	return strconv.FormatBool(l.On)
}

// Type implements pflag.Value.
func (l *Load) Type() string { return "ENGINE" }

// IsBoolFlag says that the flag may stand alone.
func (l *Load) IsBoolFlag() bool { return true }

// export is what --load asks for.
func (l *Load) export() Export {
	if l.Engine == "containerd" {
		e := Export{Type: "containerd", Attrs: map[string]string{}}
		e.intoContainerd()
		return e
	}
	return Export{Type: "docker", Attrs: map[string]string{}, Sink: Docker, Engine: l.Engine}
}

// Containerd is where an image goes that is put into containerd's store. What is "" comes
// from the environment, as ctr and nerdctl have it, or is containerd's default.
type Containerd struct {
	Address, Namespace, Snapshotter string
	Packed                          bool // not unpacked: no snapshots are made of its layers
}

// intoContainerd makes an export of type containerd what a daemon knows: an OCI layout that
// is written blob by blob.
func (e *Export) intoContainerd() {
	take := func(key string) string {
		v := e.Attrs[key]
		delete(e.Attrs, key)
		return v
	}
	e.Containerd = Containerd{Address: take("address"), Namespace: take("namespace"), Snapshotter: take("snapshotter")}
	unpack := take("unpack")
	e.Containerd.Packed = unpack != "" && !isTrue(unpack)
	e.Type, e.Sink = "oci", IntoContainerd
	e.Attrs["tar"] = "false"
}
