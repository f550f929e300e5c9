package buildflags

import (
	"errors"
	"fmt"
	"strconv"
)

// SourceDateEpoch is the variable and the build argument that says what time it is in what a
// build makes, in seconds since 1970 (reproducible-builds.org/specs/source-date-epoch).
const SourceDateEpoch = "SOURCE_DATE_EPOCH"

// contextEpoch asks the frontend for the time of the context's commit.
const contextEpoch = "context"

// reproducible asks for layers that depend on the input alone, if there is an epoch. The
// option is the exporters' and is left as it was given, unless --reproducible insists.
func (f *Flags) reproducible(r *Request, env Env) error {
	const attr = "build-arg:" + SourceDateEpoch
	if f.Reproducible {
		if r.Attrs[attr] == "" {
			epoch, err := r.commitTime(env)
			if err != nil {
				return fmt.Errorf("--reproducible: no commit to take the time from: %w; set %s to a number of seconds since 1970", err, SourceDateEpoch)
			}
			r.Attrs[attr] = epoch
		} else if _, err := strconv.ParseInt(r.Attrs[attr], 10, 64); err != nil {
			return fmt.Errorf("--reproducible: %s=%s is not a number of seconds since 1970", SourceDateEpoch, r.Attrs[attr])
		}
		if err := r.checkReproducible(); err != nil {
			return fmt.Errorf("--reproducible: %w", err)
		}
	}
	if r.Attrs[attr] == "" {
		return nil
	}
	for _, e := range r.Exports {
		if _, given := e.Attrs["rewrite-timestamp"]; e.image() && !given && !isTrue(e.Attrs["unpack"]) {
			e.Attrs["rewrite-timestamp"] = "true"
		}
	}
	return nil
}

// commitTime is the time of the newest commit of the context.
func (r *Request) commitTime(env Env) (string, error) {
	switch dir := r.Locals[LocalContext]; {
	case r.SSHContext || r.HTTPContext:
		return contextEpoch, nil
	case dir == "" || env.CommitTime == nil:
		return "", errors.New("the context is no directory and no repository")
	default:
		return env.CommitTime(dir)
	}
}

// checkReproducible refuses outputs that depend on more than the input.
func (r *Request) checkReproducible() error {
	for _, e := range r.Exports {
		if !e.image() {
			continue
		}
		if v, given := e.Attrs["rewrite-timestamp"]; given && !isTrue(v) {
			return errors.New("an output has rewrite-timestamp=false, which keeps the times of the build")
		}
		if isTrue(e.Attrs["unpack"]) {
			return errors.New("an output has unpack=true, which keeps the times of the build")
		}
		if where := e.Attrs["attestation-attach"]; r.attested() && where != "referrers" && where != "none" {
			return errors.New("attestations say when a build was, and would be in an index with the image; attach=referrers leaves it as it is")
		}
	}
	inline := isTrue(r.Attrs["build-arg:BUILDKIT_INLINE_CACHE"])
	for _, c := range r.CacheTo {
		inline = inline || c.Type == "inline"
	}
	if inline {
		return errors.New("a cache says when its steps ran, and an inline one is in the image; --cache-to type=registry keeps it elsewhere")
	}
	return nil
}
