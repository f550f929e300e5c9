package dockerfile

import (
	"fmt"
	"math"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// vertexName prefixes a command with its place: "[linux/arm64 stage 2/5] COPY a b". The
// number is that of s.number.
func (b *build) vertexName(s *stage, command string, platform *ocispec.Platform, vars shell.EnvGetter) string {
	if s.total == 0 {
		return command
	}
	var out strings.Builder
	out.WriteByte('[')
	if b.opts.multi && platform != nil {
		out.WriteString(platforms.FormatAll(*platform) + crossTarget(*platform, vars) + " ")
	}
	if s.label != "" {
		out.WriteString(s.label + " ")
	}
	width := int(1 + math.Log10(float64(s.total)))
	fmt.Fprintf(&out, "%*d/%d] ", width, s.number, s.total)
	if s.inTrigger {
		out.WriteString("ONBUILD ")
	}
	out.WriteString(command)
	return out.String()
}

// stepName is the name of the vertex of the next instruction that makes one.
func (b *build) stepName(s *stage, source string, lex *shell.Lex, vars shell.EnvGetter, platform *ocispec.Platform) string {
	s.number++
	if text, _, err := lex.ProcessWord(source, vars); err == nil {
		source = text
	}
	return b.vertexName(s, upperKeyword(source), platform, &s.env)
}

func upperKeyword(s string) string {
	keyword, rest, ok := strings.Cut(s, " ")
	if !ok {
		return strings.ToUpper(keyword)
	}
	return strings.ToUpper(keyword) + " " + rest
}

// crossTarget shows the platform that a stage compiles for, if its variables say that it
// is not the one it runs on: "->arm64".
func crossTarget(base ocispec.Platform, vars shell.EnvGetter) string {
	var t ocispec.Platform
	found := false
	for _, key := range vars.Keys() {
		v, _ := vars.Get(key)
		switch key {
		case "TARGETPLATFORM":
			p, err := platforms.Parse(v)
			if err != nil {
				continue
			}
			return arrow(base, p)
		case "TARGETOS":
			t.OS, found = v, true
		case "TARGETARCH":
			t.Architecture, found = v, true
		case "TARGETVARIANT":
			t.Variant, found = v, true
		}
	}
	if !found {
		return ""
	}
	return arrow(base, t)
}

func arrow(base, t ocispec.Platform) string {
	if t.OS == "" {
		t.OS = base.OS
	}
	if t.Architecture == "" {
		t.Architecture = base.Architecture
	}
	t = platforms.Normalize(t)
	switch {
	case t.OS != base.OS:
		return "->" + platforms.FormatAll(t)
	case t.Architecture == base.Architecture:
		return ""
	case t.Variant != "":
		return "->" + t.Architecture + "/" + t.Variant
	}
	return "->" + t.Architecture
}

// masked shows stars for the variables that hold secrets.
type masked struct {
	*env
	secret map[string]bool
}

// Get implements the lexer's EnvGetter.
func (m masked) Get(key string) (string, bool) {
	if m.secret[key] {
		return "****", true
	}
	return m.env.Get(key)
}
