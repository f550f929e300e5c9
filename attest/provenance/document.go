package provenance

import (
	"encoding/json"
	"maps"
	"time"

	"github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/common"
	slsa02 "github.com/in-toto/in-toto-golang/in_toto/slsa_provenance/v0.2"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Build types say how the rest of a document is to be read: as BuildKit's.
const (
	buildType   = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"
	buildType02 = "https://mobyproject.org/buildkit@v1"
)

// dependency is what SLSA v1 calls a resource descriptor.
type dependency struct {
	URI    string           `json:"uri,omitempty"`
	Digest common.DigestSet `json:"digest,omitempty"`
}

type builder struct {
	ID string `json:"id"`
}

type buildMetadata struct {
	InvocationID string     `json:"invocationId,omitempty"`
	StartedOn    *time.Time `json:"startedOn,omitempty"`
	FinishedOn   *time.Time `json:"finishedOn,omitempty"`
}

// document is a predicate of SLSA v1.
type document struct {
	BuildDefinition struct {
		BuildType            string       `json:"buildType"`
		ExternalParameters   source       `json:"externalParameters"`
		InternalParameters   internal     `json:"internalParameters"`
		ResolvedDependencies []dependency `json:"resolvedDependencies,omitempty"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder  builder  `json:"builder"`
		Metadata metadata `json:"metadata"`
	} `json:"runDetails"`
}

// source is a request with the file it began with.
type source struct {
	ConfigSource configSource `json:"configSource"`
	Request      *parameters  `json:"request,omitempty"`
}

type configSource struct {
	URI    string           `json:"uri,omitempty"`
	Digest common.DigestSet `json:"digest,omitempty"`
	Path   string           `json:"path,omitempty"`
}

type parameters struct {
	Frontend      string             `json:"frontend,omitempty"`
	Args          map[string]string  `json:"args,omitempty"`
	Secrets       []Mount            `json:"secrets,omitempty"`
	SSH           []Mount            `json:"ssh,omitempty"`
	Locals        []local            `json:"locals,omitempty"`
	Inputs        map[string]*source `json:"inputs,omitempty"`
	Root          *source            `json:"root,omitempty"`
	Compatibility int                `json:"compatibilityVersion,omitempty"`
}

type local struct {
	Name string `json:"name"`
}

type internal struct {
	BuildConfig       *steps
	BuilderPlatform   string
	DockerfileVersion string
	Env               map[string]any // beside the others
}

func (i internal) MarshalJSON() ([]byte, error) {
	m := map[string]any{"builderPlatform": i.BuilderPlatform}
	if i.BuildConfig != nil {
		m["buildConfig"] = i.BuildConfig
	}
	return beside(i.Env, i.DockerfileVersion, m)
}

// beside is an object with fields, and what the builder's operator adds to it.
func beside(env map[string]any, dockerfileVersion string, fields map[string]any) ([]byte, error) {
	m := map[string]any{}
	maps.Copy(m, env)
	maps.Copy(m, fields)
	if dockerfileVersion != "" {
		m["dockerfileVersion"] = dockerfileVersion
	}
	return json.Marshal(m)
}

type metadata struct {
	buildMetadata
	BuildKit     buildkit     `json:"buildkit_metadata"`
	Hermetic     bool         `json:"buildkit_hermetic,omitempty"`
	Completeness completeness `json:"buildkit_completeness"`
	Reproducible bool         `json:"buildkit_reproducible,omitempty"`
}

type completeness struct {
	Request              bool `json:"request"`
	ResolvedDependencies bool `json:"resolvedDependencies"`
}

type buildkit struct {
	VCS    map[string]string                 `json:"vcs,omitempty"`
	Source *sources                          `json:"source,omitempty"`
	Layers map[string][][]ocispec.Descriptor `json:"layers,omitempty"`

	SysUsage any         `json:"sysUsage,omitempty"`
	Network  *networkUse `json:"network,omitempty"`
}

// networkUse says how steps reached the network, if not as usual.
type networkUse struct {
	Mode  string    `json:"mode"` // "proxy"
	Proxy *proxyUse `json:"proxy,omitempty"`
}

type proxyUse struct {
	Incomplete []Unseen `json:"incomplete"`
}

// steps are the operations of a graph with short names.
type steps struct {
	Definition []step                   `json:"llbDefinition,omitempty"`
	Digests    map[digest.Digest]string `json:"digestMapping,omitempty"` // to names
}

type step struct {
	ID     string   `json:"id,omitempty"`
	Op     *pb.Op   `json:"op,omitempty"`
	Inputs []string `json:"inputs,omitempty"`
	Usage  *samples `json:"resourceUsage,omitempty"`
}

type samples struct {
	Samples any `json:"samples"`
}

// sources are files and what of them steps come from.
type sources struct {
	Locations map[string]*pb.Locations `json:"locations,omitempty"`
	Infos     []sourceInfo             `json:"infos,omitempty"`
}

type sourceInfo struct {
	Filename string `json:"filename,omitempty"`
	Language string `json:"language,omitempty"`
	Data     []byte `json:"data,omitempty"`
	steps           // that load the file
}

// document02 is a predicate of SLSA v0.2.
type document02 struct {
	Builder     slsa02.ProvenanceBuilder    `json:"builder"`
	BuildType   string                      `json:"buildType"`
	Materials   []slsa02.ProvenanceMaterial `json:"materials,omitempty"`
	Invocation  invocation                  `json:"invocation"`
	BuildConfig *steps                      `json:"buildConfig,omitempty"`
	Metadata    metadata02                  `json:"metadata"`
}

type invocation struct {
	ConfigSource slsa02.ConfigSource `json:"configSource"`
	Parameters   *parameters         `json:"parameters"`
	Environment  environment         `json:"environment"`
}

type environment struct {
	Platform          string
	DockerfileVersion string
	Env               map[string]any // beside the others
}

func (e environment) MarshalJSON() ([]byte, error) {
	return beside(e.Env, e.DockerfileVersion, map[string]any{"platform": e.Platform})
}

type metadata02 struct {
	slsa02.ProvenanceMetadata
	BuildKit buildkit `json:"https://mobyproject.org/buildkit@v1#metadata"`
	Hermetic bool     `json:"https://mobyproject.org/buildkit@v1#hermetic,omitempty"`
}

// old says the same in the words of v0.2.
func (d *document) old() *document02 {
	def, meta := &d.BuildDefinition, &d.RunDetails.Metadata
	from, in := def.ExternalParameters.ConfigSource, def.InternalParameters
	out := &document02{
		Builder:   slsa02.ProvenanceBuilder{ID: d.RunDetails.Builder.ID},
		BuildType: buildType02,
		Invocation: invocation{
			ConfigSource: slsa02.ConfigSource{URI: from.URI, Digest: from.Digest, EntryPoint: from.Path},
			Parameters:   def.ExternalParameters.Request,
			Environment:  environment{in.BuilderPlatform, in.DockerfileVersion, in.Env},
		},
		BuildConfig: in.BuildConfig,
		Metadata: metadata02{
			ProvenanceMetadata: slsa02.ProvenanceMetadata{
				BuildInvocationID: meta.InvocationID, BuildStartedOn: meta.StartedOn, BuildFinishedOn: meta.FinishedOn,
				Completeness: slsa02.ProvenanceComplete{
					Parameters: meta.Completeness.Request, Environment: true, Materials: meta.Completeness.ResolvedDependencies,
				},
				Reproducible: meta.Reproducible,
			},
			BuildKit: meta.BuildKit, Hermetic: meta.Hermetic,
		},
	}
	for _, m := range def.ResolvedDependencies {
		out.Materials = append(out.Materials, slsa02.ProvenanceMaterial{URI: m.URI, Digest: m.Digest})
	}
	return out
}
