package dockerfile

import (
	"path"
	"slices"
	"strings"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

// resetConfig drops what FROM --reset names of the config that a stage has from its base.
func (s *stage) resetConfig() {
	conf := &s.image.Config
	for _, r := range s.reset {
		switch r.What {
		case "env":
			s.resetEnv(r.Pattern)
		case "label":
			for name := range conf.Labels {
				if ok, _ := path.Match(r.Pattern, name); ok || r.Pattern == "" {
					delete(conf.Labels, name)
				}
			}
		case "volume":
			conf.Volumes = nil
		case "expose":
			conf.ExposedPorts = nil
		case "entrypoint":
			conf.Entrypoint = nil
		case "cmd":
			conf.Cmd = nil
			conf.ArgsEscaped = false //nolint:staticcheck // it says how Cmd is written
		case "user":
			conf.User, s.user = "", ""
		case "workdir":
			conf.WorkingDir, s.dir = "/", "/"
			s.workdirSet = true // the base no longer matters
		case "healthcheck":
			conf.Healthcheck = nil
		case "stopsignal":
			conf.StopSignal = ""
		case "shell":
			conf.Shell = nil
		}
	}
}

// resetEnv drops variables. ARGs that a parent stage declared keep their values.
func (s *stage) resetEnv(name string) {
	conf := &s.image.Config
	conf.Env = slices.DeleteFunc(conf.Env, func(kv string) bool {
		key, _, _ := strings.Cut(kv, "=")
		if name != "" && key != name {
			return false
		}
		s.env.unset(key)
		return true
	})
	s.settled, s.configEnv = false, nil
	for _, a := range s.args {
		if a.value != nil && (name == "" || name == a.key) && !slices.Contains(nonEnvArgs, a.key) {
			s.env.set(a.key, *a.value)
		}
	}
}

// resetsTriggers reports whether the base's ONBUILD instructions are dropped.
func (s *stage) resetsTriggers() bool {
	return slices.ContainsFunc(s.reset, func(r instruction.Reset) bool { return r.What == "onbuild" })
}
