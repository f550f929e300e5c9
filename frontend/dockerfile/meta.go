package dockerfile

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	spec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/sys/signal"

	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

// nonEnvArgs are arguments to the builder that commands do not see.
var nonEnvArgs = []string{"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"}

// keyValues expands the assignments of one instruction; none sees the others.
func (b *build) keyValues(s *stage, in []instruction.KeyValue) ([]instruction.KeyValue, error) {
	out := make([]instruction.KeyValue, len(in))
	for i, kv := range in {
		key, err := b.expand(s, kv.Key)
		if err != nil {
			return nil, err
		}
		value, err := b.expand(s, kv.Value)
		if err != nil {
			return nil, err
		}
		out[i] = instruction.KeyValue{Key: key, Value: value}
	}
	return out, nil
}

func (b *build) setEnv(s *stage, in *instruction.Env) error {
	vars, err := b.keyValues(s, in.Vars)
	if err != nil {
		return err
	}
	text := "ENV"
	for i, kv := range vars {
		if in.Vars[i].Legacy {
			b.lint.report(legacyKeyValue, in.Pos, "ENV")
		}
		b.lintSecret(in.Pos, "ENV", kv.Key)
		s.setBoth(kv.Key, kv.Value)
		text += " " + kv.Key + "=" + kv.Value
	}
	s.commit(text, false)
	return nil
}

func (b *build) label(s *stage, in *instruction.Label) error {
	labels, err := b.keyValues(s, in.Labels)
	if err != nil {
		return err
	}
	text := "LABEL"
	if s.image.Config.Labels == nil {
		s.image.Config.Labels = map[string]string{}
	}
	for i, kv := range labels {
		if in.Labels[i].Legacy {
			b.lint.report(legacyKeyValue, in.Pos, "LABEL")
		}
		if err := checkLabel(kv.Key); err != nil {
			return err
		}
		s.image.Config.Labels[kv.Key] = kv.Value
		text += " " + kv.Key + "=" + kv.Value
	}
	s.commit(text, false)
	return nil
}

// arg declares arguments: a build arg wins over a default, a default over what the
// global scope has.
func (b *build) arg(s *stage, in *instruction.Arg) error {
	text := "ARG"
	for _, a := range in.Args {
		b.lintSecret(in.Pos, "ARG", a.Key)
		value := a.Default
		inherited, global := b.global.Get(a.Key)
		global = global && value == nil
		if v, ok := b.args[a.Key]; ok {
			value = &v
		} else if value != nil {
			v, err := b.expand(s, *value)
			if err != nil {
				return err
			}
			value = &v
		} else if global {
			value = &inherited
		}
		if value != nil && !slices.Contains(nonEnvArgs, a.Key) {
			s.env.set(a.Key, *value)
			s.settled = false
		}
		s.args = append(s.args, buildArg{key: a.Key, value: value, global: global, doc: a.Doc, at: in.Ranges})
		text += " " + a.Key
		if value != nil {
			text += "=" + *value
		}
	}
	s.commit(text, false)
	return nil
}

func (s *stage) maintainer(in *instruction.Maintainer) error {
	s.image.Author = in.Name
	s.commit("MAINTAINER "+in.Name, false)
	return nil
}

func (b *build) user(s *stage, in *instruction.User) error {
	name, err := b.expand(s, in.Name)
	if err != nil {
		return err
	}
	s.user, s.image.Config.User = name, name
	s.commit("USER "+name, false)
	return nil
}

func (s *stage) setShell(in *instruction.Shell) error {
	s.image.Config.Shell = in.Args
	s.commit(fmt.Sprintf("SHELL %v", in.Args), false)
	return nil
}

// withShell is a command line as it is executed.
func (s *stage) withShell(line instruction.CommandLine) []string {
	if !line.Shell {
		return line.Args
	}
	shell := s.image.Config.Shell
	switch {
	case len(shell) > 0:
	case s.platform.OS == windows:
		shell = []string{"cmd", "/S", "/C"}
	default:
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), strings.Join(line.Args, " "))
}

func (b *build) cmd(s *stage, in *instruction.Cmd) error {
	b.once(&s.cmdAt, in.Pos)
	b.lintShellForm(s, in.Pos, in.CommandLine)
	args := s.withShell(in.CommandLine)
	s.image.Config.Cmd = args
	s.image.Config.ArgsEscaped = true //nolint:staticcheck // Docker still reads it
	s.commit(fmt.Sprintf("CMD %q", args), false)
	return nil
}

// entrypoint takes away a CMD that was meant for the base's entry point.
func (b *build) entrypoint(s *stage, in *instruction.Entrypoint) error {
	b.once(&s.entrypointAt, in.Pos)
	b.lintShellForm(s, in.Pos, in.CommandLine)
	args := s.withShell(in.CommandLine)
	s.image.Config.Entrypoint = args
	if s.cmdAt == nil {
		s.image.Config.Cmd = nil
	}
	s.commit(fmt.Sprintf("ENTRYPOINT %q", args), false)
	return nil
}

func (b *build) healthcheck(s *stage, in *instruction.Healthcheck) error {
	b.once(&s.healthAt, in.Pos)
	s.image.Config.Healthcheck = &spec.HealthcheckConfig{
		Test:          in.Test,
		Interval:      in.Interval,
		Timeout:       in.Timeout,
		StartPeriod:   in.StartPeriod,
		StartInterval: in.StartInterval,
		Retries:       in.Retries,
	}
	s.commit(fmt.Sprintf("HEALTHCHECK %+v", *s.image.Config.Healthcheck), false)
	return nil
}

func (b *build) volume(s *stage, in *instruction.Volume) error {
	paths, err := b.expandAll(s, in.Paths)
	if err != nil {
		return err
	}
	if s.image.Config.Volumes == nil {
		s.image.Config.Volumes = map[string]struct{}{}
	}
	for i, p := range paths {
		if p == "" {
			return fmt.Errorf("VOLUME %s is empty", in.Paths[i])
		}
		s.image.Config.Volumes[p] = struct{}{}
	}
	s.commit(fmt.Sprintf("VOLUME %v", paths), false)
	return nil
}

func (b *build) stopSignal(s *stage, in *instruction.StopSignal) error {
	sig, err := b.expand(s, in.Signal)
	if err != nil {
		return err
	}
	if _, err := signal.ParseSignal(sig); err != nil {
		return fmt.Errorf("STOPSIGNAL: %q is not a signal", sig)
	}
	s.image.Config.StopSignal = sig
	s.commit("STOPSIGNAL "+sig, false)
	return nil
}

func (b *build) expose(s *stage, in *instruction.Expose) error {
	ports, err := b.ports(s, in)
	if err != nil {
		return err
	}
	if s.image.Config.ExposedPorts == nil {
		s.image.Config.ExposedPorts = map[string]struct{}{}
	}
	for _, p := range ports {
		s.image.Config.ExposedPorts[p] = struct{}{}
	}
	s.commit(fmt.Sprintf("EXPOSE %v", ports), false)
	return nil
}

// parsePorts reads "[[ip:]host:]port[-last][/protocol]" into "port/protocol" each. What
// comes before the container's port has no effect, but must make sense.
func parsePorts(text string) ([]string, error) {
	host := ""
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		host, text = text[:i], text[i+1:]
		ip := ""
		if i := strings.LastIndexByte(host, ':'); i >= 0 {
			ip, host = strings.Trim(host[:i], "[]"), host[i+1:]
			if ip != "" && net.ParseIP(ip) == nil {
				return nil, fmt.Errorf("invalid IP address %q", ip)
			}
		}
	}
	text, proto, _ := strings.Cut(text, "/")
	switch proto = strings.ToLower(proto); proto {
	case "":
		proto = "tcp"
	case "tcp", "udp", "sctp":
	default:
		return nil, fmt.Errorf("invalid protocol %q, want tcp, udp or sctp", proto)
	}
	first, last, err := portRange(text)
	if err != nil {
		return nil, err
	}
	if host != "" {
		hostFirst, hostLast, err := portRange(host)
		if err != nil {
			return nil, fmt.Errorf("host port: %w", err)
		}
		if hostLast-hostFirst != last-first && first != last {
			return nil, errors.New("the ranges of host and container ports differ in length")
		}
	}
	var out []string
	for p := first; p <= last; p++ {
		out = append(out, strconv.Itoa(p)+"/"+proto)
	}
	return out, nil
}

func portRange(text string) (first, last int, err error) {
	a, z, isRange := strings.Cut(text, "-")
	number := func(s string) int {
		n, e := strconv.ParseUint(s, 10, 16)
		if e != nil {
			err = fmt.Errorf("invalid port %q, want a number up to 65535", s)
		}
		return int(n)
	}
	first = number(a)
	if last = first; isRange {
		last = number(z)
	}
	if err == nil && last < first {
		err = fmt.Errorf("invalid port range %q", text)
	}
	return first, last, err
}
