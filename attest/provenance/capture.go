package provenance

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/dbuild/dbuild/llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Kind is where a material comes from. Materials are listed in the order of kinds.
type Kind int

// Kinds of materials.
const (
	Image Kind = iota
	ImageBlob
	Git
	HTTP
)

// A Material is something from outside that a build used, with what it was then.
type Material struct {
	Kind   Kind
	Name   string            // as the build asked for it; materials of a kind are sorted by it
	URI    string            // as documents name it
	Digest map[string]string // algorithm to hexadecimal value
	// Layers are those of an image, oldest first.
	Layers []ocispec.Descriptor
}

// A Request is what somebody asked a frontend for. It is immutable.
type Request struct {
	Frontend      string            // "" is a client that made its own graph
	Args          map[string]string // options as the frontend got them
	Inputs        map[string]*Request
	Compatibility int // version of the client's choice; 0 if it made none
}

// A Mount is a secret or an agent that a step could use.
type Mount struct {
	ID       string `json:"id"`
	Optional bool   `json:"optional,omitempty"`
}

// A Used is what steps used.
type Used struct {
	Materials []Material
	Locals    []string // names of directories of the client
	Secrets   []Mount
	SSH       []Mount
	Network   bool // a step could reach the network
	Unknown   bool // something was used that is not known
	Proxied   bool // a step reached the network through the builder's proxy, and not otherwise
	Unseen    []Unseen
}

// An Unseen is a request of a proxied step of which it is not known what the step got.
type Unseen struct {
	Op     string `json:"op,omitempty"`   // digest of the step
	Name   string `json:"name,omitempty"` // its command line
	Method string `json:"method,omitempty"`
	URI    string `json:"uri,omitempty"`
	Reason string `json:"reason,omitempty"` // in BuildKit's words, see proxy.ReasonStatus and others
}

// A Capture is what is known about a result.
type Capture struct {
	Used
	Request *Request // who was asked for the result
	// Root is what the client asked the builder, if the result came of a question that
	// was asked in the course of it.
	Root  *Request
	Graph *llb.Graph // of the result
	// Layers are those of results of steps, as far as they are known.
	Layers map[llb.Edge][]ocispec.Descriptor

	// Usage is what steps used of the machine, by the digest of the operation, and System what
	// the whole machine did meanwhile: samples as documents have them.
	Usage  map[digest.Digest]any
	System any

	ID                string // of the build
	Started, Finished time.Time
	Platform          string         // of the builder
	DockerfileVersion string         // of the frontend, if it is the builder's own
	Env               map[string]any // of the builder: what its operator wants to have said
}

// Add adds what other steps used.
func (u *Used) Add(other Used) {
	u.Materials = append(u.Materials, other.Materials...)
	u.Locals = append(u.Locals, other.Locals...)
	u.Secrets = append(u.Secrets, other.Secrets...)
	u.SSH = append(u.SSH, other.SSH...)
	u.Network = u.Network || other.Network
	u.Unknown = u.Unknown || other.Unknown
	u.Proxied = u.Proxied || other.Proxied
	u.Unseen = append(u.Unseen, other.Unseen...)
}

// AddGraph adds what the operations of a graph use, apart from materials: those are known
// to whoever fetched them.
func (u *Used) AddGraph(g *llb.Graph) {
	for _, v := range g.Vertices {
		switch op := v.Op.Op.(type) {
		case *pb.Op_Exec:
			u.addExec(op.Exec)
		case *pb.Op_Build:
			u.Unknown = true
		}
	}
}

// defaultSSH is the id of an agent that is not named.
const defaultSSH = "default"

func (u *Used) addExec(e *pb.ExecOp) {
	u.Network = u.Network || e.Network != pb.NetMode_NONE
	for _, m := range e.Mounts {
		switch m.MountType {
		case pb.MountType_SECRET:
			u.Secrets = append(u.Secrets, Mount{m.SecretOpt.GetID(), m.SecretOpt.GetOptional()})
		case pb.MountType_SSH:
			u.SSH = append(u.SSH, Mount{cmp.Or(m.SSHOpt.GetID(), defaultSSH), m.SSHOpt.GetOptional()})
		}
	}
	for _, s := range e.Secretenv {
		u.Secrets = append(u.Secrets, Mount{s.GetID(), s.GetOptional()})
	}
}

// normal returns u sorted, each thing once.
func (u Used) normal() Used {
	u.Materials = slices.Clone(u.Materials)
	slices.SortStableFunc(u.Materials, func(a, b Material) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name), cmp.Compare(a.URI, b.URI))
	})
	u.Materials = slices.CompactFunc(u.Materials, func(a, b Material) bool {
		return a.URI == b.URI && maps.Equal(a.Digest, b.Digest)
	})
	u.Locals = slices.Compact(slices.Sorted(slices.Values(u.Locals)))
	u.Secrets, u.SSH = mounts(u.Secrets), mounts(u.SSH)
	u.Unseen = slices.Clone(u.Unseen)
	slices.SortFunc(u.Unseen, func(a, b Unseen) int {
		return cmp.Or(cmp.Compare(a.URI, b.URI), cmp.Compare(a.Method, b.Method), cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Op, b.Op))
	})
	u.Unseen = slices.Compact(u.Unseen)
	u.Unknown = u.Unknown || len(u.Unseen) > 0
	return u
}

// mounts sorts by id. What one step needs is not optional.
func mounts(in []Mount) []Mount {
	byID := map[string]bool{}
	for _, m := range in {
		optional, ok := byID[m.ID]
		byID[m.ID] = m.Optional && (optional || !ok)
	}
	var out []Mount
	for _, id := range slices.Sorted(maps.Keys(byID)) {
		out = append(out, Mount{id, byID[id]})
	}
	return out
}
