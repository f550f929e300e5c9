package llb

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
)

// Marshal returns the definition that leads to o: its ops, inputs before their
// readers, and last an op of no kind whose only input is o. Nodes without a platform
// get platform. The definition of scratch has no ops.
func Marshal(ctx context.Context, o Output, platform ocispec.Platform) (*pb.Definition, error) {
	def := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}
	if o.IsScratch() {
		return def, nil
	}
	m := &marshaller{
		platform: platform,
		def:      def,
		digests:  map[*node]digest.Digest{},
		seen:     map[digest.Digest]bool{},
		files:    map[*pb.SourceInfo]int{},
		source:   &pb.Source{Locations: map[string]*pb.Locations{}},
	}
	if err := m.walk(ctx, o.node); err != nil {
		return nil, err
	}
	last, err := proto.MarshalOptions{Deterministic: true}.Marshal(&pb.Op{Inputs: []*pb.Input{m.input(o)}})
	if err != nil {
		return nil, err
	}
	caps := map[string]bool{string(pb.CapConstraints): true, string(pb.CapPlatform): true}
	for _, md := range def.Metadata {
		if md.IgnoreCache {
			caps[string(pb.CapMetaIgnoreCache)] = true
		}
		if md.Description != nil {
			caps[string(pb.CapMetaDescription)] = true
		}
		if md.ExportCache != nil {
			caps[string(pb.CapMetaExportCache)] = true
		}
	}
	def.Def = append(def.Def, last)
	def.Metadata[string(digestOf(last))] = &pb.OpMetadata{Caps: caps}
	def.Source = m.source
	return def, nil
}

// Digest returns the digest that the op behind o has in a definition marshalled with
// platform. Scratch has none.
func Digest(ctx context.Context, o Output, platform ocispec.Platform) (digest.Digest, error) {
	if o.IsScratch() {
		return "", nil
	}
	def, err := Marshal(ctx, o, platform)
	if err != nil {
		return "", err
	}
	return digestOf(def.Def[len(def.Def)-2]), nil
}

// digestOf is digest.FromBytes without its garbage: there is one for each op.
func digestOf(dt []byte) digest.Digest {
	sum := sha256.Sum256(dt)
	return digest.Digest("sha256:" + hex.EncodeToString(sum[:]))
}

type marshaller struct {
	platform ocispec.Platform
	def      *pb.Definition
	digests  map[*node]digest.Digest
	seen     map[digest.Digest]bool // ops in def; different nodes may be equal
	files    map[*pb.SourceInfo]int
	source   *pb.Source
}

// walk adds n after everything it reads. It keeps its own stack: graphs made by
// programs can be deep.
func (m *marshaller) walk(ctx context.Context, n *node) error {
	type frame struct {
		n    *node
		next int
	}
	stack := []frame{{n: n}}
	for len(stack) > 0 {
		top := &stack[len(stack)-1]
		if _, done := m.digests[top.n]; done {
			stack = stack[:len(stack)-1]
			continue
		}
		if top.next < len(top.n.inputs) {
			in := top.n.inputs[top.next].node
			top.next++
			if _, done := m.digests[in]; !done {
				stack = append(stack, frame{n: in})
			}
			continue
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := m.add(top.n); err != nil {
			return err
		}
		stack = stack[:len(stack)-1]
	}
	return nil
}

func (m *marshaller) input(o Output) *pb.Input {
	return &pb.Input{Digest: string(m.digests[o.node]), Index: int64(o.index)}
}

func (m *marshaller) add(n *node) error {
	if n.err != nil {
		return n.err
	}
	dt, md, locs := n.raw, n.rawMeta, n.rawSources
	if dt == nil {
		var err error
		if dt, err = m.bytes(n); err != nil {
			return err
		}
		md, locs = n.meta.pb(n.caps), n.meta.Locations
	}
	dgst := digestOf(dt)
	m.digests[n] = dgst
	if md = mergeMeta(m.def.Metadata[string(dgst)], md); md != nil {
		m.def.Metadata[string(dgst)] = md
	}
	m.locate(dgst, locs)
	if !m.seen[dgst] {
		m.seen[dgst] = true
		m.def.Def = append(m.def.Def, dt)
	}
	return nil
}

func (m *marshaller) bytes(n *node) ([]byte, error) {
	// By digest: different nodes may be equal ops.
	type input struct {
		digest digest.Digest
		index  int
	}
	var inputs []*pb.Input
	var places map[input]int64 // made for the second input: most ops have one
	op := n.op(func(o Output) int64 {
		if o.IsScratch() {
			return int64(pb.Empty)
		}
		in := input{m.digests[o.node], o.index}
		if !n.repeat && len(inputs) > 0 {
			if places == nil {
				places = map[input]int64{{digest.Digest(inputs[0].Digest), int(inputs[0].Index)}: 0}
			}
			if i, ok := places[in]; ok {
				return i
			}
			places[in] = int64(len(inputs))
		}
		inputs = append(inputs, m.input(o))
		return int64(len(inputs) - 1)
	})
	op.Inputs = inputs
	op.Constraints = &pb.WorkerConstraints{Filter: n.meta.Constraints}
	if n.hasPlatform {
		p := m.platform
		if n.platform != nil {
			p = *n.platform
		}
		op.Platform = pb.PlatformFromSpec(p)
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(op)
}

func (m *marshaller) locate(dgst digest.Digest, locs []*SourceLocation) {
	if len(locs) == 0 {
		return
	}
	all := m.source.Locations[string(dgst)]
	if all == nil {
		all = &pb.Locations{}
		m.source.Locations[string(dgst)] = all
	}
	for _, l := range locs {
		if l == nil || l.File == nil {
			continue
		}
		all.Locations = append(all.Locations, &pb.Location{SourceIndex: int32(m.file(l.File)), Ranges: l.Ranges})
	}
}

func (m *marshaller) file(f *pb.SourceInfo) int {
	if i, ok := m.files[f]; ok {
		return i
	}
	for i, have := range m.source.Infos {
		if have.Filename == f.Filename && have.Language == f.Language && bytes.Equal(have.Data, f.Data) {
			m.files[f] = i
			return i
		}
	}
	m.source.Infos = append(m.source.Infos, f)
	m.files[f] = len(m.source.Infos) - 1
	return m.files[f]
}
