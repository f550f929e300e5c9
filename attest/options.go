package attest

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/tonistiigi/go-csvvalue"
)

// Options are the attestations that a client asks for; nil ones it does not.
type Options struct {
	Provenance *Provenance
	SBOM       *SBOM
}

// Provenance says how provenance is written.
type Provenance struct {
	Max          bool   // with steps, sources, layers and the values of build arguments
	Version      string // V1 or V02
	BuilderID    string
	Filename     string // where results are files
	Reproducible bool   // what the client claims
	InlineOnly   bool   // not where it would be a file among others
	// CompleteMaterials has the build fail if something it used is not known.
	CompleteMaterials bool
	// CaptureUsage adds what steps used of the machine, if Max.
	CaptureUsage bool
}

// Versions of SLSA provenance.
const (
	V1  = "v1"
	V02 = "v0.2"
)

// SBOM says who lists the packages of a result.
type SBOM struct {
	Generator string            // image; "" is the default one
	Args      map[string]string // given to the generator
}

// prefixes of options that ask for attestations; the second is for Dockerfile users whose
// client knows no other way.
var prefixes = []string{"attest:", "build-arg:BUILDKIT_ATTEST_"}

// IsOption reports whether a key of a frontend's options asks for an attestation.
func IsOption(key string) bool {
	_, ok := kindOf(key)
	return ok
}

func kindOf(key string) (kind string, ok bool) {
	for _, p := range prefixes {
		if kind, ok := strings.CutPrefix(key, p); ok {
			return strings.ToLower(kind), true
		}
	}
	return "", false
}

// Parse reads what the options of a frontend say about attestations:
// "attest:provenance" = "mode=min,inline-only=true".
func Parse(opts map[string]string) (out Options, _ error) {
	for _, key := range slices.Sorted(maps.Keys(opts)) {
		kind, ok := kindOf(key)
		if !ok {
			continue
		}
		params, disabled, err := parseParams(opts[key])
		if err == nil && !disabled {
			switch kind {
			case "provenance":
				out.Provenance, err = provenanceFrom(params)
			case "sbom":
				out.SBOM = sbomFrom(params)
			default:
				err = fmt.Errorf("there is no such attestation (want provenance or sbom)")
			}
		}
		if err != nil {
			return Options{}, errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("attestation %s: %v", kind, err))
		}
	}
	return out, nil
}

func parseParams(csv string) (params map[string]string, disabled bool, err error) {
	params = map[string]string{}
	if csv == "" {
		return params, false, nil
	}
	fields, err := csvvalue.Fields(csv, nil)
	if err != nil {
		return nil, false, fmt.Errorf("%q is not a comma list: %w", csv, err)
	}
	for _, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		if !ok {
			return nil, false, fmt.Errorf("%q is not key=value", f)
		}
		if k == "disabled" {
			if disabled, err = strconv.ParseBool(v); err != nil {
				return nil, false, fmt.Errorf("disabled=%s is neither true nor false", v)
			}
			continue
		}
		params[k] = v
	}
	return params, disabled, nil
}

func provenanceFrom(params map[string]string) (*Provenance, error) {
	p := &Provenance{Max: true, Version: V1, Filename: "provenance.json"}
	for _, k := range slices.Sorted(maps.Keys(params)) {
		v := params[k]
		var err error
		switch k {
		case "mode":
			switch v {
			case "", "max", "full":
			case "min":
				p.Max = false
			default:
				err = fmt.Errorf("mode=%s is neither min nor max", v)
			}
		case "version":
			if p.Version = v; v != V1 && v != V02 {
				err = fmt.Errorf("version=%s is neither %s nor %s", v, V1, V02)
			}
		case "builder-id":
			p.BuilderID = v
		case "filename":
			if p.Filename = v; v == "" || strings.ContainsAny(v, `/\`) || v == "." || v == ".." {
				err = fmt.Errorf("filename=%s is not the name of a file", v)
			}
		case "reproducible":
			p.Reproducible, err = boolean(k, v)
		case "inline-only":
			p.InlineOnly, err = boolean(k, v)
		case "complete-materials":
			p.CompleteMaterials, err = boolean(k, v)
		case "capture-usage":
			p.CaptureUsage, err = boolean(k, v)
		default:
			err = fmt.Errorf("unknown parameter %s", k)
		}
		if err != nil {
			return nil, err
		}
	}
	return p, nil
}

func boolean(k, v string) (bool, error) {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("%s=%s is neither true nor false", k, v)
	}
	return b, nil
}

func sbomFrom(params map[string]string) *SBOM {
	s := &SBOM{Generator: params["generator"]}
	delete(params, "generator")
	s.Args = params
	return s
}
