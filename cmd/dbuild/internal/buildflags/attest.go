package buildflags

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"
)

// attachments are the places for the attestations of an image.
var attachments = []string{"index", "none", "referrers"}

// attestations reads --attest, --provenance and --sbom. Nothing is asked for by default.
func (f *Flags) attestations(r *Request, _ Env) error {
	attach := ""
	add := func(kind string, params []string) error {
		rest := []string{}
		for _, p := range params {
			v, ok := strings.CutPrefix(p, "attach=")
			switch {
			case !ok:
				rest = append(rest, p)
			case !slices.Contains(attachments, v):
				return fmt.Errorf("attach=%s: there are %s", v, strings.Join(attachments, ", "))
			case attach != "" && attach != v:
				return fmt.Errorf("attach=%s and attach=%s exclude each other: an image has its attestations in one place", attach, v)
			default:
				attach = v
			}
		}
		r.Attrs["attest:"+kind] = strings.Join(rest, ",")
		return nil
	}
	for _, v := range f.Attest {
		if err := addAttest(v, add); err != nil {
			return fmt.Errorf("--attest %s: %w", v, err)
		}
	}
	for _, s := range []struct{ flag, kind, value string }{{"--provenance", "provenance", f.Provenance}, {"--sbom", "sbom", f.SBOM}} {
		if s.value == "" {
			continue
		}
		var params []string
		if on, err := strconv.ParseBool(s.value); err == nil {
			if !on {
				delete(r.Attrs, "attest:"+s.kind)
				continue
			}
		} else if params, err = csvvalue.Fields(s.value, nil); err != nil || !strings.Contains(s.value, "=") {
			return fmt.Errorf("%s %s: want true, false or parameters such as mode=max", s.flag, s.value)
		}
		if err := add(s.kind, params); err != nil {
			return fmt.Errorf("%s %s: %w", s.flag, s.value, err)
		}
	}
	f.attach(r, attach)
	return nil
}

// addAttest reads one --attest.
func addAttest(v string, add func(kind string, params []string) error) error {
	fields, err := csvvalue.Fields(v, nil)
	if err != nil {
		return err
	}
	kind, disabled := "", false
	var params []string
	for _, field := range fields {
		k, val, ok := strings.Cut(field, "=")
		switch {
		case k == "type" && ok:
			kind = val
		case k == "disabled" || k == "enabled":
			on := !ok || isTrue(val)
			disabled = on == (k == "disabled")
		case ok:
			params = append(params, field)
		default:
			return fmt.Errorf("%q is not key=value", field)
		}
	}
	if kind == "" {
		return fmt.Errorf("type is missing, such as type=provenance")
	}
	if disabled {
		return nil
	}
	return add(kind, params)
}

// attach tells the outputs where attestations go. What goes to a registry stays the image
// it is without them, unless the user wants it otherwise; a file has no place for more.
func (f *Flags) attach(r *Request, where string) {
	asked := r.attested()
	for i := range r.Exports {
		e := &r.Exports[i]
		if !asked || !e.image() || e.Attrs["attestation-attach"] != "" {
			continue
		}
		switch {
		case where != "":
			e.Attrs["attestation-attach"] = where
		case e.Type == "image":
			e.Attrs["attestation-attach"] = "referrers"
		}
	}
}

// attested tells whether anything is to be said about the result.
func (r *Request) attested() bool {
	for k := range r.Attrs {
		if strings.HasPrefix(k, "attest:") {
			return true
		}
	}
	return false
}
