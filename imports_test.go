package dbuild

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/dbuild/dbuild/"

// rows is the direction of imports: a package may import only packages of rows above its
// own, unless also says so. docs/architecture.md draws it.
var rows = [][]string{
	{"internal/flight", "internal/progress", "internal/rpcerror", "internal/treehash", "internal/signature", "internal/ignore", "internal/exportrecord"},
	{"solver", "llb", "session", "attest"},
	{"internal/registry", "internal/registry/*", "attest/provenance"},
	{"internal/snapshot"},
	{"source/image", "source/local", "source/git", "source/http", "policy", "exporter", "cache/bolt", "cache/buildkit", "worker/runc", "worker/runc/*", "worker/fileop", "worker/device", "frontend", "history", "explain"},
	{"exporter/*", "cache/remote", "cache/remote/*", "worker", "frontend/*", "frontend/dockerfile/*", "frontend/gateway/*"},
	{"daemon"},
	{"cmd/dbuild", "cmd/dbuild/*"},
}

// also lists imports between packages of one row: a package and its own parts.
var also = map[string][]string{
	"frontend/dockerfile":               {"frontend/dockerfile/instruction", "frontend/sbom"},
	"worker/runc":                       {"worker/runc/"},
	"worker/runc/init":                  {"worker/runc/launcher"},
	"internal/registry/registrytest":    {"internal/registry"},
	"exporter/exportertest":             {"exporter"},
	"cmd/dbuild":                        {"cmd/dbuild/"},
	"frontend/gateway":                  {"frontend/gateway/wire"},
	"frontend/gateway/client":           {"frontend/gateway/wire"},
	"cmd/dbuild/internal/buildflags":    {"cmd/dbuild/internal/suggest"},
	"cmd/dbuild/internal/localimage":    {"cmd/dbuild/internal/engine", "cmd/dbuild/internal/closedstore"},
	"cmd/dbuild/internal/imagestore":    {"cmd/dbuild/internal/closedstore"},
	"cmd/dbuild/internal/buildkitdtoml": {"cmd/dbuild/internal/suggest"},
}

// buildkit is what of BuildKit the product may import; client is for the command line.
var buildkit = []string{
	"frontend/dockerfile/parser", "frontend/dockerfile/shell", "api/", "solver/pb", "solver/errdefs", "frontend/gateway/pb",
	"sourcepolicy/pb", "sourcepolicy/policysession", "util/apicaps", "util/stack", "session",
}

var buildkitCommandLine = []string{"client", "frontend/gateway/client", "util/progress/progressui"}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func TestImportDirection(t *testing.T) {
	for _, p := range packages(t) {
		name := strings.TrimPrefix(p.ImportPath, module)
		row := rowOf(name)
		if row < 0 {
			if !strings.HasPrefix(name, "internal/e2e") && !strings.HasPrefix(name, "internal/bench") && !strings.HasPrefix(name, "internal/conformance") && p.ImportPath+"/" != module {
				t.Errorf("%s stands in no row of the import table", name)
			}
			continue
		}
		for _, imp := range p.Imports {
			if of, ok := strings.CutPrefix(imp, "github.com/moby/buildkit/"); ok && !allowedOfBuildkit(name, of) {
				t.Errorf("%s imports %s, which is ours to write", name, imp)
			}
			to, ok := strings.CutPrefix(imp, module)
			if !ok || rowOf(to) < row {
				continue
			}
			if !hasPrefix(to, also[name]) {
				t.Errorf("%s (row %d) imports %s (row %d)", name, row, to, rowOf(to))
			}
		}
	}
}

func allowedOfBuildkit(name, of string) bool {
	if strings.HasPrefix(of, "client/llb") && of != "client/llb/sourceresolver" {
		return false
	}
	return hasPrefix(of, buildkit) || strings.HasPrefix(name, "cmd/") && hasPrefix(of, buildkitCommandLine)
}

func hasPrefix(s string, prefixes []string) bool {
	for _, p := range prefixes {
		if s == p || strings.HasPrefix(s, strings.TrimSuffix(p, "/")+"/") {
			return true
		}
	}
	return false
}

func rowOf(name string) int {
	for i, row := range rows {
		for _, p := range row {
			dir, all := strings.CutSuffix(p, "/*")
			if p == name || all && strings.HasPrefix(name, dir+"/") {
				return i
			}
		}
	}
	return -1
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var list []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}
