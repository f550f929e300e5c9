package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

var matrixDir = filepath.Join("..", "..", "testdata", "matrix")

// TestMatrix builds each feature of the Dockerfile language and looks into the image. All
// rows use one daemon, the image "base" in it and the registry $REG, so what a row expects
// to run or to be cached must be its own.
func TestMatrix(t *testing.T) {
	bin, tools := programs(t)
	shared, err := newState(bin)
	check(t, err)
	t.Cleanup(shared.close)
	check(t, shared.start("--allow", "network.host", "--allow", "security.insecure"))
	base := filepath.Join(shared.dir, "base")
	check(t, writeBase(base))
	if out, err := exec.Command(bin, "--addr", shared.addr(), "-q", "-t", "base", base).CombinedOutput(); err != nil {
		t.Fatalf("base: %v\n%s", err, out)
	}
	shared.reg, err = newRegistry(filepath.Join(shared.dir, "registry"))
	check(t, err)
	shared.registries["REG"] = shared.reg

	testscript.Run(t, testscript.Params{
		Dir: matrixDir,
		Setup: func(env *testscript.Env) error {
			_, err := setUp(env, bin, tools)
			env.Setenv("DBUILD_HOST", shared.addr())
			env.Setenv("REG", shared.reg.addr)
			return err
		},
		Cmds:                commands,
		RequireExplicitExec: true,
	})
}

// TestMatrixIsDocumented checks that docs/language.md names every row of the matrix, and
// no others.
func TestMatrixIsDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "language.md"))
	check(t, err)
	named := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\|.*\\| `([a-z0-9-]+)` \\|$").FindAllSubmatch(doc, -1) {
		if named[string(m[1])] {
			t.Errorf("docs/language.md names %s twice", m[1])
		}
		named[string(m[1])] = true
	}
	scripts, err := filepath.Glob(filepath.Join(matrixDir, "*.txt"))
	check(t, err)
	for _, path := range scripts {
		name := strings.TrimSuffix(filepath.Base(path), ".txt")
		if !named[name] {
			t.Errorf("docs/language.md does not name %s", name)
		}
		delete(named, name)
	}
	for name := range named {
		t.Errorf("docs/language.md names %s, which is not in testdata/matrix", name)
	}
}
