package worker

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/dbuild/dbuild/attest"
	"github.com/dbuild/dbuild/internal/progress"
	"github.com/dbuild/dbuild/llb"
	"github.com/dbuild/dbuild/solver"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// LoadOptions say what a graph may do and on whose behalf it is loaded.
type LoadOptions struct {
	// Scope is mixed into the identity of what depends on an unnamed client, such as a
	// local directory without a session: normally the id of the session.
	Scope string
	// HostNetwork and Insecure say whether those entitlements were granted.
	HostNetwork, Insecure bool
	// Proxied has processes reach their network through a proxy only, see runc.Proxy.
	Proxied bool
	// Nested checks the definition of a build within the build; required if there is one.
	Nested func(context.Context, *pb.Definition) (*llb.Graph, error)

	nested  int // how deep this is
	Devices DeviceGrants
}

// Load makes solver vertices of a validated graph and returns the edge it leads to, or
// ok false for an empty filesystem.
func (w *Worker) Load(g *llb.Graph, opt LoadOptions) (_ solver.Edge, ok bool, _ error) {
	if g.Root.Vertex == nil {
		return solver.Edge{}, false, nil
	}
	loaded := make(map[*llb.Vertex]*solver.Vertex, len(g.Vertices))
	for _, v := range g.Vertices {
		sv, err := w.vertex(v, loaded, opt)
		if err != nil {
			return solver.Edge{}, false, &solver.VertexError{Vertex: &solver.Vertex{Show: progress.Vertex{Digest: v.Digest, Name: vertexName(v)}}, Err: err}
		}
		loaded[v] = sv
	}
	return solver.Edge{Vertex: loaded[g.Root.Vertex], Output: g.Root.Output}, true, nil
}

func (w *Worker) vertex(v *llb.Vertex, loaded map[*llb.Vertex]*solver.Vertex, opt LoadOptions) (*solver.Vertex, error) {
	out := &solver.Vertex{
		NoCache: v.Meta.GetIgnoreCache() || v.Op.GetBuild() != nil,
		Show:    progress.Vertex{Digest: v.Digest, Name: vertexName(v)},
	}
	if g := v.Meta.GetProgressGroup(); g != nil {
		out.Show.Group = &progress.Group{ID: g.Id, Name: g.Name, Weak: g.Weak}
	}
	scoped := false
	for _, in := range v.Inputs {
		sv := loaded[in.Vertex]
		out.Inputs = append(out.Inputs, solver.Edge{Vertex: sv, Output: in.Output})
		out.Show.Inputs = append(out.Show.Inputs, in.Vertex.Digest)
		scoped = scoped || sv.Def != plainDef(in.Vertex.Digest)
	}
	var err error
	out.Op, err = w.op(v, opt)
	if err != nil {
		return nil, err
	}
	out.Def = plainDef(v.Digest)
	if src := v.Op.GetSource(); src != nil && strings.HasPrefix(src.Identifier, "local://") && src.Attrs[pb.AttrLocalSessionID] == "" {
		out.Def = hash("scope", out.Def[:], []byte(opt.Scope))
	} else if scoped {
		// The def must name, recursively, what is read.
		parts := [][]byte{out.Def[:]}
		for _, in := range out.Inputs {
			parts = append(parts, in.Vertex.Def[:])
		}
		out.Def = hash("scoped", parts...)
	}
	if exec, ok := out.Op.(*execOp); ok && len(exec.op.CdiDevices) > 0 {
		// Names mean what the build says.
		out.Def = hash("devices", out.Def[:], exec.id[:])
	}
	if exec, ok := out.Op.(*execOp); ok && exec.proxied {
		out.Def = hash("proxied", out.Def[:])
	}
	return out, nil
}

// plainDef is the def of a vertex that means the same whoever asks.
func plainDef(d digest.Digest) (def solver.Def) {
	b, err := hex.DecodeString(d.Encoded())
	if err != nil || len(b) != len(def) {
		return hash("digest", []byte(d))
	}
	copy(def[:], b)
	return def
}

func (w *Worker) op(v *llb.Vertex, opt LoadOptions) (solver.Op, error) {
	inputs := len(v.Inputs)
	switch op := v.Op.Op.(type) {
	case *pb.Op_Source:
		return w.sourceOp(op.Source, v.Op.Platform, v.Meta)
	case *pb.Op_Exec:
		if err := opt.PermitNetwork(op.Exec.Network); err != nil {
			return nil, err
		}
		if err := opt.PermitSecurity(op.Exec.Security); err != nil {
			return nil, err
		}
		return newExecOp(w, v, op.Exec, opt)
	case *pb.Op_File:
		return newFileOp(w, v, op.File)
	case *pb.Op_Merge:
		id, err := opID("merge", v.Op)
		return &mergeOp{w: w, op: op.Merge, id: id, inputs: inputs}, err
	case *pb.Op_Diff:
		id, err := opID("diff", v.Op)
		return &diffOp{w: w, op: op.Diff, id: id, inputs: inputs}, err
	case *pb.Op_Passthrough:
		id, err := opID("passthrough", v.Op)
		return &passthroughOp{op: op.Passthrough, id: id, inputs: inputs}, err
	case *pb.Op_Build:
		return newBuildOp(w, v, op.Build, opt)
	}
	return nil, fmt.Errorf("not implemented: this kind of operation")
}

// vertexName is what people see, and what is kept: the name a frontend gave, or what the op
// does, without credentials.
func vertexName(v *llb.Vertex) string { return attest.Redact(fullName(v)) }

func fullName(v *llb.Vertex) string {
	if n := v.Meta.GetDescription()["llb.customname"]; n != "" {
		return n
	}
	switch op := v.Op.Op.(type) {
	case *pb.Op_Source:
		if id, ok := strings.CutPrefix(op.Source.Identifier, "local://"); ok {
			return "[internal] load " + id
		}
		return op.Source.Identifier
	case *pb.Op_Exec:
		return strings.Join(op.Exec.Meta.GetArgs(), " ")
	case *pb.Op_File:
		var names []string
		for _, a := range op.File.Actions {
			names = append(names, actionName(a))
		}
		return strings.Join(names, ", ")
	case *pb.Op_Merge:
		return "merge"
	case *pb.Op_Diff:
		return "diff"
	case *pb.Op_Passthrough:
		return "passthrough " + op.Passthrough.Id
	case *pb.Op_Build:
		return "build"
	}
	return v.Digest.String()
}

func actionName(a *pb.FileAction) string {
	switch a := a.Action.(type) {
	case *pb.FileAction_Copy:
		return "copy " + a.Copy.Src + " " + a.Copy.Dest
	case *pb.FileAction_Mkfile:
		return "mkfile " + a.Mkfile.Path
	case *pb.FileAction_Mkdir:
		return "mkdir " + a.Mkdir.Path
	case *pb.FileAction_Rm:
		return "rm " + a.Rm.Path
	case *pb.FileAction_Symlink:
		return "symlink " + a.Symlink.Oldpath + " " + a.Symlink.Newpath
	}
	return "file"
}
