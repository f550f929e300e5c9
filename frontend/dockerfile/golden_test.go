package dockerfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	digest "github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/dbuild/dbuild/frontend"
)

// A goldenOp is an operation that BuildKit made.
type goldenOp struct{ digest, name, op string }

// TestGolden compares every operation with what BuildKit made of the same Dockerfile.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("../../testdata/dockerfile/*.txtar")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d golden files, %v", len(files), err)
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			ar, err := txtar.ParseFile(name)
			if err != nil {
				t.Fatal(err)
			}
			bridge := newFakeBridge(t)
			opts := map[string]string{OptSession: "SESSION"}
			want := map[string]string{}
			for _, f := range ar.Files {
				kind, _, _ := strings.Cut(f.Name, "/")
				switch kind {
				case "opts":
					for line := range strings.Lines(string(f.Data)) {
						k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
						opts[k] = v
					}
				case "llb", "config", "lint", "differs", "refused":
					want[f.Name] = string(f.Data)
				default:
					bridge.files[f.Name] = f.Data
				}
			}
			built, err := Convert(t.Context(), bridge, &frontend.Request{Opts: opts})
			if line, ok := want["refused"]; ok {
				if _, other, ok := strings.Cut(want["differs"], "refused "); ok {
					line = strings.Join(strings.Fields(other)[:2], " ") + "\n"
				}
				if err == nil {
					t.Error("BuildKit refuses it, we do not")
				} else if got := errorLine(err); got != line && line != "no line\n" {
					t.Errorf("the error %v is about %s, BuildKit's about %s", err, got, line)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range built {
				suffix := ""
				if _, single := want["llb"]; !single {
					suffix = "/" + p.ID
				}
				compareOps(t, readGolden(t, want["llb"+suffix]), p.Definition, differs(want["differs"]))
				compareConfig(t, want["config"+suffix], p)
			}
			if lint, ok := want["lint"]; ok {
				lint = withDiffers(lint, want["differs"])
				compareLint(t, lint, bridge, opts)
			}
		})
	}
}

// withDiffers is what we find where BuildKit finds lint: "lint RULE LINE reason" is something
// more, "nolint RULE LINE reason" something less.
func withDiffers(lint, text string) string {
	found := slices.Collect(strings.Lines(lint))
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		switch one := f[1] + " " + f[2] + "\n"; f[0] {
		case "lint":
			found = append(found, one)
		case "nolint":
			found = slices.DeleteFunc(found, func(l string) bool { return l == one })
		}
	}
	slices.Sort(found)
	return strings.Join(found, "")
}

// errorLine is in the form of the section "refused".
func errorLine(err error) string {
	var src *errdefs.SourceError
	if !errors.As(err, &src) || len(src.Ranges) == 0 {
		return "no line\n"
	}
	return fmt.Sprintf("line %d\n", src.Ranges[0].Start.Line)
}

func readGolden(t *testing.T, text string) []goldenOp {
	t.Helper()
	if text == "scratch\n" {
		return nil
	}
	var ops []goldenOp
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for pair := range slices.Chunk(lines, 2) {
		if len(pair) != 2 {
			t.Fatalf("golden file has an odd number of lines")
		}
		d, name, _ := strings.Cut(pair[0], " ")
		ops = append(ops, goldenOp{d, name, strings.TrimSpace(pair[1])})
	}
	return ops
}

// differs reads "BuildKit's ours reason" lines; "=" for ours means that only the name is
// another.
func differs(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 2 {
			m[f[0]] = f[1]
		}
	}
	return m
}

func compareOps(t *testing.T, want []goldenOp, def *pb.Definition, differ map[string]string) {
	t.Helper()
	var got []goldenOp
	for i, dt := range def.Def {
		if i == len(def.Def)-1 {
			break
		}
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			t.Fatal(err)
		}
		d := string(digest.FromBytes(dt))
		name := def.Metadata[d].GetDescription()["llb.customname"]
		if def.Metadata[d].GetIgnoreCache() {
			name = "(no cache) " + name
		}
		got = append(got, goldenOp{d, name, compactJSON(t, &op)})
	}
	for i := range want {
		if ours, ok := differ[want[i].digest]; ok && ours != "=" {
			want[i].digest = ours
		}
	}
	digests := func(ops []goldenOp) map[string]goldenOp {
		m := map[string]goldenOp{}
		for _, o := range ops {
			m[o.digest] = o
		}
		return m
	}
	have, expect := digests(got), digests(want)
	for i, w := range want {
		g, ok := have[w.digest]
		if !ok {
			t.Errorf("BuildKit has %s\n  %s\n  %s", w.digest, w.name, w.op)
			continue
		}
		if g.name != w.name && differ[w.digest] != "=" {
			t.Errorf("operation %d is called\n%s, BuildKit says\n%s", i, g.name, w.name)
		}
	}
	for _, g := range got {
		if _, ok := expect[g.digest]; !ok {
			t.Errorf("we have %s\n  %s\n  %s", g.digest, g.name, g.op)
		}
	}
	for i := range want {
		if !t.Failed() && got[i].digest != want[i].digest {
			t.Errorf("operation %d comes in another order", i)
		}
	}
}

func compactJSON(t *testing.T, op *pb.Op) string {
	t.Helper()
	dt, err := protojson.Marshal(op)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(dt, &v); err != nil {
		t.Fatal(err)
	}
	if dt, err = json.Marshal(v); err != nil {
		t.Fatal(err)
	}
	return string(dt)
}

func compareLint(t *testing.T, want string, bridge *fakeBridge, opts map[string]string) {
	t.Helper()
	opts["requestid"] = "frontend.lint"
	res, err := New().Solve(t.Context(), bridge, &frontend.Request{Opts: opts})
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Warnings   []lintWarning
		BuildError any
	}
	if err := json.Unmarshal(res.Metadata["result.json"], &answer); err != nil {
		t.Fatal(err)
	}
	if answer.BuildError != nil {
		t.Errorf("lint: %v", answer.BuildError)
	}
	var lines []string
	for _, w := range answer.Warnings {
		lines = append(lines, fmt.Sprintf("%s %d\n", w.RuleName, w.Location.Ranges[0].Start.Line))
	}
	slices.Sort(lines)
	if d := cmp.Diff(want, strings.Join(lines, "")); d != "" {
		t.Errorf("lint (-BuildKit +ours):\n%s", d)
	}
}

func compareConfig(t *testing.T, want string, p *Platform) {
	t.Helper()
	dt, err := json.Marshal(p.Image)
	if err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	var v any
	if err := json.Unmarshal(dt, &v); err != nil {
		t.Fatal(err)
	}
	enc := json.NewEncoder(&got)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		t.Fatal(err)
	}
	var w any
	if err := json.Unmarshal([]byte(want), &w); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(w, v); d != "" {
		t.Errorf("image config (-BuildKit +ours):\n%s", d)
	}
}
