package dockerfile

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/dbuild/dbuild/frontend"
	"github.com/dbuild/dbuild/frontend/dockerfile/instruction"
)

// capabilities are those that clients may demand in "frontend.caps".
var capabilities = []string{
	"moby.buildkit.frontend.inputs",
	"moby.buildkit.frontend.subrequests",
	"moby.buildkit.frontend.contexts",
	"moby.buildkit.frontend.gitquerystring",
}

// checkCaps refuses what we cannot do. What ends in "+forward" is for the frontend that the
// Dockerfile names: forward says that it may be left to that one.
func checkCaps(demands string) (forward bool, err error) {
	for d := range strings.SplitSeq(demands, ",") {
		name, flag, _ := strings.Cut(d, "+")
		if name == "" || slices.Contains(capabilities, name) {
			continue
		}
		err = errdefs.NewUnsupportedFrontendCapError(name)
		if flag != "forward" {
			return false, err
		}
		forward = true
	}
	return forward, err
}

// subrequest answers a question about the Dockerfile instead of building it.
func (l *loader) subrequest(ctx context.Context, id string) (*frontend.Result, error) {
	switch id {
	case "frontend.convertllb":
		file, err := l.parse(ctx)
		if err != nil {
			return nil, err
		}
		p, err := newBuild(l, file, l.opts.firstPlatform()).convert(ctx)
		if err != nil {
			return nil, err
		}
		return describeLLB(p.Definition)
	case "frontend.outline":
		return l.outline(ctx)
	case "frontend.targets":
		file, err := l.parse(ctx)
		if err != nil {
			return nil, err
		}
		return l.listTargets(file)
	case "frontend.lint":
		return l.lintAll(ctx)
	case "frontend.subrequests.describe":
		return answer("1.0.0", requests, func(out *strings.Builder) {
			rows := [][]string{{"NAME", "VERSION", "DESCRIPTION"}}
			for _, r := range requests {
				rows = append(rows, []string{strings.TrimPrefix(r.Name, "frontend."), r.Version, r.Description})
			}
			table(out, 1, rows)
		})
	}
	return nil, errdefs.NewUnsupportedSubrequestError(id)
}

// A request describes a subrequest: what it takes, and what its answer is made of.
type request struct {
	Name        string  `json:"name"`
	Version     string  `json:"version"`
	Type        string  `json:"type"`
	Description string  `json:"description"`
	Opts        []named `json:"opts"`
	Inputs      []named `json:"inputs"`
	Metadata    []named `json:"metadata"`
	Refs        []named `json:"refs"`
}

type named struct {
	Name        string `json:"name"`
	Description string `json:"description"`
}

func rpc(name, version, description string, opts []named, metadata ...string) request {
	r := request{Name: name, Version: version, Type: "rpc", Description: description, Opts: opts}
	for _, m := range metadata {
		r.Metadata = append(r.Metadata, named{Name: m})
	}
	return r
}

var (
	targetOpt = []named{{"target", "Target build stage"}}
	requests  = []request{
		rpc("frontend.outline", "1.0.0", "List all parameters current build target supports", targetOpt, "result.json", "result.txt"),
		rpc("frontend.targets", "1.0.0", "List all targets current build supports", nil, "result.json", "result.txt"),
		rpc("frontend.lint", "1.0.0", "Lint a Dockerfile", targetOpt, "result.json", "result.txt", "result.statuscode"),
		rpc("frontend.convertllb", "0.1.0", "Convert Dockerfile to LLB", targetOpt, "result.json"),
		rpc("frontend.subrequests.describe", "1.0.0", "List available subrequest types", nil, "result.json", "result.txt"),
	}
)

// answer is the result of a subrequest: v as JSON, and as text if there is one.
func answer(version string, v any, text func(*strings.Builder)) (*frontend.Result, error) {
	dt, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the answer: %w", err)
	}
	res := &frontend.Result{Metadata: map[string][]byte{"result.json": dt, "version": []byte(version)}}
	if text != nil {
		var b strings.Builder
		text(&b)
		res.Metadata["result.txt"] = []byte(b.String())
	}
	return res, nil
}

// table writes rows in columns that are gap apart.
func table(out *strings.Builder, gap int, rows [][]string) {
	w := tabwriter.NewWriter(out, 0, 0, gap, ' ', 0)
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	w.Flush() // to memory
}

func describeLLB(def *pb.Definition) (*frontend.Result, error) {
	ops := map[digest.Digest]json.RawMessage{}
	for _, dt := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			return nil, fmt.Errorf("decode our own operation: %w", err)
		}
		js, err := protojson.Marshal(&op)
		if err != nil {
			return nil, fmt.Errorf("encode operation: %w", err)
		}
		ops[digest.FromBytes(dt)] = js
	}
	src, err := protojson.Marshal(def.Source)
	if err != nil {
		return nil, fmt.Errorf("encode source locations: %w", err)
	}
	return answer("0.1.0", map[string]any{"def": ops, "metadata": def.Metadata, "source": json.RawMessage(src)}, nil)
}

// A target describes a stage.
type target struct {
	Name        string       `json:"name,omitempty"`
	Default     bool         `json:"default,omitempty"`
	Description string       `json:"description,omitempty"`
	Base        string       `json:"base,omitempty"`
	Platform    string       `json:"platform,omitempty"`
	Location    *pb.Location `json:"location,omitempty"`
}

func (l *loader) listTargets(file *instruction.File) (*frontend.Result, error) {
	list := struct {
		Targets []target `json:"targets"`
		Sources [][]byte `json:"sources"`
	}{Sources: l.texts()}
	for i, s := range file.Stages {
		list.Targets = append(list.Targets, target{
			Name: s.From.Name, Default: i == len(file.Stages)-1, Description: s.From.Doc,
			Base: s.From.Base, Platform: s.From.Platform, Location: l.location(s.From.Ranges),
		})
	}
	return answer("1.0.0", list, func(out *strings.Builder) {
		rows := [][]string{{"TARGET", "DESCRIPTION"}}
		for _, t := range list.Targets {
			name := t.Name
			if t.Default {
				name = strings.TrimSpace(name + " (default)")
			}
			rows = append(rows, []string{name, t.Description})
		}
		table(out, 1, rows)
	})
}
