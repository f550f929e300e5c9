// Command golden asks a BuildKit daemon what its Dockerfile frontend makes of the cases
// given as arguments and writes the answers into them. See ../README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

func main() {
	log.SetFlags(0)
	addr := flag.String("addr", "unix:///run/buildkit/buildkitd.sock", "address of the daemon")
	images := flag.String("images", "", "write an OCI layout of the base images to this directory, print their names and exit")
	layout := flag.String("layout", "", "such a layout, for cases with a context oci-layout://layout@...")
	flag.Parse()
	if *images != "" {
		if err := writeImages(*images); err != nil {
			log.Fatal(err)
		}
		return
	}
	ctx := context.Background()
	c, err := client.New(ctx, *addr)
	if err != nil {
		log.Fatal(err)
	}
	stores := map[string]content.Store{}
	if *layout != "" {
		if stores["layout"], err = local.NewStore(*layout); err != nil {
			log.Fatal(err)
		}
	}
	failed := false
	for _, name := range flag.Args() {
		if err := update(ctx, c, name, stores); err != nil {
			log.Printf("%s: %v", name, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

func update(ctx context.Context, c *client.Client, name string, stores map[string]content.Store) error {
	ar, err := txtar.ParseFile(name)
	if err != nil {
		return err
	}
	ar.Files = slices.DeleteFunc(ar.Files, func(f txtar.File) bool {
		return f.Name == "lint" || f.Name == "llb" || f.Name == "config" || strings.HasPrefix(f.Name, "llb/") || strings.HasPrefix(f.Name, "config/")
	})
	dir, err := os.MkdirTemp("", "golden")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	refused := slices.IndexFunc(ar.Files, func(f txtar.File) bool { return f.Name == "refused" })
	attrs := map[string]string{}
	for _, f := range ar.Files {
		if f.Name == "opts" {
			for line := range strings.Lines(string(f.Data)) {
				k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
				attrs[k] = v
			}
			continue
		}
		p := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(p, f.Data, 0o644); err != nil {
			return err
		}
	}
	mounts := map[string]fsutil.FS{}
	add := func(name, dir string) error {
		fs, err := fsutil.NewFS(dir)
		mounts[name] = fs
		return err
	}
	if err := add("context", dir); err != nil {
		return err
	}
	if err := add("dockerfile", dir); err != nil {
		return err
	}
	for k, v := range attrs {
		if sub, ok := strings.CutPrefix(v, "local:"); ok && strings.HasPrefix(k, "context:") {
			if err := add(sub, filepath.Join(dir, sub)); err != nil {
				return err
			}
		}
	}
	_, err = c.Build(ctx, client.SolveOpt{LocalMounts: mounts, OCIStores: stores}, "", func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
		res, err := g.Solve(ctx, gateway.SolveRequest{Frontend: "dockerfile.v0", FrontendOpt: attrs})
		if err != nil {
			return nil, err
		}
		refs := map[string]gateway.Reference{"": res.Ref}
		if res.Ref == nil && len(res.Refs) > 0 {
			refs = map[string]gateway.Reference{}
			for p, r := range res.Refs {
				refs["/"+p] = r
			}
		}
		var suffixes []string
		for s := range refs {
			suffixes = append(suffixes, s)
		}
		slices.Sort(suffixes)
		for _, s := range suffixes {
			text := []byte("scratch\n")
			if r := refs[s]; r != nil {
				st, err := r.ToState()
				if err != nil {
					return nil, err
				}
				def, err := st.Marshal(ctx)
				if err != nil {
					return nil, err
				}
				if text, err = show(def.ToPB()); err != nil {
					return nil, err
				}
			}
			config, err := indent(res.Metadata["containerimage.config"+s])
			if err != nil {
				return nil, err
			}
			ar.Files = append(ar.Files, txtar.File{Name: "llb" + s, Data: text}, txtar.File{Name: "config" + s, Data: config})
		}
		lint, err := checks(ctx, g, attrs)
		if err != nil {
			return nil, err
		}
		if lint != nil {
			ar.Files = append(ar.Files, txtar.File{Name: "lint", Data: lint})
		}
		return gateway.NewResult(), nil
	}, nil)
	switch {
	case refused >= 0 && err == nil:
		return errors.New("BuildKit does not refuse it")
	case refused >= 0:
		ar.Files[refused].Data = []byte(place(err))
	case err != nil:
		return err
	}
	return os.WriteFile(name, txtar.Format(ar), 0o644)
}

// place is the line that an error is about.
func place(err error) string {
	for _, src := range errdefs.Sources(err) {
		if len(src.Ranges) > 0 {
			return fmt.Sprintf("line %d\n", src.Ranges[0].Start.Line)
		}
	}
	return "no line\n"
}

// checks lists the rules that the Dockerfile breaks with their lines, or nothing if it
// cannot be built.
func checks(ctx context.Context, g gateway.Client, attrs map[string]string) ([]byte, error) {
	attrs = maps.Clone(attrs)
	attrs["requestid"], attrs["frontend.caps"] = "frontend.lint", "moby.buildkit.frontend.subrequests"
	res, err := g.Solve(ctx, gateway.SolveRequest{Frontend: "dockerfile.v0", FrontendOpt: attrs})
	if err != nil {
		return nil, err
	}
	var answer struct {
		Warnings []struct {
			RuleName string
			Location struct {
				Ranges []struct{ Start struct{ Line int } }
			}
		}
		BuildError any
	}
	if err := json.Unmarshal(res.Metadata["result.json"], &answer); err != nil {
		return nil, err
	}
	if answer.BuildError != nil {
		return nil, nil
	}
	lines := []string{}
	for _, w := range answer.Warnings {
		line := 0
		if len(w.Location.Ranges) > 0 {
			line = w.Location.Ranges[0].Start.Line
		}
		lines = append(lines, fmt.Sprintf("%s %d\n", w.RuleName, line))
	}
	slices.Sort(lines)
	return []byte(strings.Join(lines, "")), nil
}

func indent(dt []byte) ([]byte, error) {
	var v any
	if err := json.Unmarshal(dt, &v); err != nil {
		return nil, err
	}
	out, err := json.MarshalIndent(v, "", "  ")
	return append(out, '\n'), err
}

// show lists the operations with the session taken out.
func show(def *pb.Definition) ([]byte, error) {
	var out strings.Builder
	now := map[string]string{} // digests, by those BuildKit gave
	for i, dt := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			return nil, err
		}
		old := string(digest.FromBytes(dt))
		for _, in := range op.Inputs {
			if in.Digest = now[in.Digest]; in.Digest == "" {
				return nil, fmt.Errorf("operation %d reads one that does not come before it", i)
			}
		}
		for _, key := range []string{pb.AttrLocalSessionID, pb.AttrOCILayoutSessionID} {
			if src := op.GetSource(); src != nil && src.Attrs[key] != "" {
				src.Attrs[key] = "SESSION"
			}
		}
		dt, err := proto.MarshalOptions{Deterministic: true}.Marshal(&op)
		if err != nil {
			return nil, err
		}
		now[old] = string(digest.FromBytes(dt))
		if i == len(def.Def)-1 {
			break // it only says which operation is the result
		}
		js, err := protojson.Marshal(&op)
		if err != nil {
			return nil, err
		}
		var v any
		if err := json.Unmarshal(js, &v); err != nil { // protojson varies its spaces on purpose
			return nil, err
		}
		if js, err = json.Marshal(v); err != nil {
			return nil, err
		}
		name := def.Metadata[old].GetDescription()["llb.customname"]
		if def.Metadata[old].GetIgnoreCache() {
			name = "(no cache) " + name
		}
		fmt.Fprintf(&out, "%s %s\n\t%s\n", now[old], name, js)
	}
	return []byte(out.String()), nil
}
