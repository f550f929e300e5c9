package provenance

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/dbuild/dbuild/attest"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
)

// PredicateType is the type of the predicates that o asks for.
func PredicateType(o *attest.Provenance) string {
	if o.Version == attest.V02 {
		return attest.PredicateProvenance02
	}
	return attest.PredicateProvenance
}

// Predicate writes c as o asks. Credentials in URLs are hidden, whatever they are part of.
func (c *Capture) Predicate(o *attest.Provenance) ([]byte, error) {
	used := c.normal()
	if o.CompleteMaterials && !used.complete() {
		return nil, used.incomplete()
	}
	d := &document{}
	def, run := &d.BuildDefinition, &d.RunDetails
	def.BuildType = buildType
	for _, m := range used.Materials {
		def.ResolvedDependencies = append(def.ResolvedDependencies, dependency{URI: m.URI, Digest: m.Digest})
	}
	def.ExternalParameters = c.Request.source(o.Max, used.Materials)
	req := def.ExternalParameters.Request
	if c.Request.Frontend == "" { // the client's options are for the frontend that it is itself
		def.ExternalParameters.ConfigSource, req.Args = configSource{}, nil
	}
	if c.Root != nil && o.Max {
		root := c.Root.source(true, used.Materials)
		req.Root = &root
	}
	for _, name := range used.Locals {
		req.Locals = append(req.Locals, local{name})
	}
	def.InternalParameters = internal{BuilderPlatform: c.Platform, DockerfileVersion: c.DockerfileVersion, Env: c.Env}
	run.Builder.ID = o.BuilderID
	run.Metadata = metadata{
		buildMetadata: buildMetadata{InvocationID: c.ID, StartedOn: &c.Started, FinishedOn: &c.Finished},
		BuildKit:      buildkit{VCS: c.Request.vcs()},
		Completeness: completeness{
			Request:              c.Request.Frontend != "" && c.Request.whole(o.Max),
			ResolvedDependencies: used.complete(),
		},
		Reproducible: o.Reproducible,
	}
	if used.Proxied {
		run.Metadata.BuildKit.Network = &networkUse{Mode: "proxy"}
		if len(used.Unseen) > 0 {
			run.Metadata.BuildKit.Network.Proxy = &proxyUse{used.Unseen}
		}
	}
	run.Metadata.Hermetic = run.Metadata.Completeness.ResolvedDependencies && !used.Network
	if o.Max {
		req.Secrets, req.SSH = used.Secrets, used.SSH
		if o.CaptureUsage {
			run.Metadata.BuildKit.SysUsage = c.System
		}
		c.describe(o, &def.InternalParameters, &run.Metadata.BuildKit)
	}
	var doc any = d
	if o.Version == attest.V02 {
		doc = d.old()
	}
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, err
	}
	return attest.RedactBytes(b), nil
}

// complete reports whether all that was used can be had again: what a client's directory had is
// not known to anybody else.
func (u *Used) complete() bool { return !u.Unknown && len(u.Locals) == 0 }

// maxNamed bounds how many things an error names.
const maxNamed = 5

// incomplete says what is not known of what was used.
func (u *Used) incomplete() error {
	const text = "provenance materials are incomplete: "
	var named []string
	list := []*bkerrdefs.ProvenanceMaterialIncomplete{} // clients know an empty one, too
	for _, name := range u.Locals {
		named = append(named, "the client's directory "+strconv.Quote(name)+" (local_source)")
		list = append(list, &bkerrdefs.ProvenanceMaterialIncomplete{Name: name, Reason: "local_source"})
	}
	for _, r := range u.Unseen {
		named = append(named, strings.Join(strings.Fields(r.Method+" "+r.URI+" ("+r.Reason+")"), " "))
		list = append(list, &bkerrdefs.ProvenanceMaterialIncomplete{Op: r.Op, Name: r.Name, Method: r.Method, Uri: r.URI, Reason: r.Reason})
	}
	if len(named) == 0 {
		named = []string{"a step built a graph that another step wrote"}
	}
	if n := len(named) - maxNamed; n > 1 {
		named = append(named[:maxNamed], fmt.Sprintf("and %d more", n))
	}
	err := errdefs.ErrFailedPrecondition.WithMessage(attest.Redact(text + strings.Join(named, ", ")))
	return bkerrdefs.WithProvenanceMaterialsIncomplete(err, list)
}

// hostOptions are about where a build happens, not about what.
var hostOptions = map[string]bool{
	"cgroup-parent": true, "image-resolve-mode": true, "platform": true, "cache-imports": true, "cache-from": true,
}

// private reports whether an option is kept for those who asked for everything: its value
// may be nobody's business.
func private(key string) bool {
	return strings.HasPrefix(key, "build-arg:") || strings.HasPrefix(key, "label:")
}

// source describes a request. Materials are what its context may be among.
func (r *Request) source(everything bool, materials []Material) source {
	s := source{Request: &parameters{Frontend: r.Frontend, Compatibility: r.Compatibility}}
	args := map[string]string{}
	for k, v := range r.Args {
		if hostOptions[k] || attest.IsOption(k) || strings.HasPrefix(k, "vcs:") || (private(k) && !everything) {
			continue
		}
		args[k] = v
	}
	if context := r.contextKey(); args[context] != "" {
		s.ConfigSource.URI = args[context]
		if m := find(materials, args[context]); m != nil {
			s.ConfigSource.Digest = m.Digest
		}
		delete(args, context)
	}
	s.ConfigSource.Path = args["filename"]
	delete(args, "filename")
	if r.Frontend == "dockerfile.v0" {
		delete(args, "source") // the builder's own frontend, by the name of an image
		delete(args, "cmdline")
	}
	if len(args) > 0 {
		s.Request.Args = args
	}
	for name, in := range r.Inputs {
		if s.Request.Inputs == nil {
			s.Request.Inputs = map[string]*source{}
		}
		from := in.source(everything, materials)
		s.Request.Inputs[name] = &from
	}
	return s
}

// contextKey is the option that says what the build context is.
func (r *Request) contextKey() string {
	if k := r.Args["contextkey"]; k != "" {
		return k
	}
	return "context"
}

// Context returns what the build context is; "" is a directory of the client with the
// name that key gives.
func (r *Request) Context() (key, value string) {
	key = r.contextKey()
	return key, r.Args[key]
}

// find returns the material that a remote context is.
func find(materials []Material, context string) *Material {
	base, fragment, _ := strings.Cut(context, "#")
	ref, _, _ := strings.Cut(fragment, ":") // without the directory
	if ref != "" {
		base += "#" + ref
	}
	for i, m := range materials {
		if (m.Kind == Git || m.Kind == HTTP) && (m.URI == base || m.URI == context) {
			return &materials[i]
		}
	}
	return nil
}

// whole reports whether a document has all arguments.
func (r *Request) whole(everything bool) bool {
	if everything {
		return true
	}
	for k := range r.Args {
		if private(k) && !attest.IsOption(k) {
			return false
		}
	}
	for _, in := range r.Inputs {
		if !in.whole(false) {
			return false
		}
	}
	return true
}

// vcs is what the client says about the repository that its directory is of.
func (r *Request) vcs() map[string]string {
	var out map[string]string
	for k, v := range r.Args {
		if k, ok := strings.CutPrefix(k, "vcs:"); ok {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}
