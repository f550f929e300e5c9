package dockerfile

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// ruleRows has for each rule a Dockerfile that breaks it, at which lines, and one that is
// nearly the same and does not.
var ruleRows = []struct {
	rule  rule
	bad   string
	lines []int
	good  string
	opts  map[string]string
}{
	{stageNameCasing, "FROM scratch AS Big\n", []int{1}, "FROM scratch AS big\n", nil},
	{fromAsCasing, "FROM scratch as a\n", []int{1}, "from scratch as a\n", nil},
	{noEmptyContinuation, "FROM scratch\nLABEL a=b \\\n\n c=d\n", []int{4}, "FROM scratch\nLABEL a=b \\\n# comment\n c=d\n", nil},
	{consistentCasing, "FROM scratch\nLABEL a=b\nlabel c=d\n", []int{3}, "from scratch\nlabel a=b\nlabel c=d\n", nil},
	{duplicateStageName, "FROM scratch AS a\nFROM scratch AS a\n", []int{2}, "FROM scratch AS a\nFROM scratch AS b\n", nil},
	{reservedStageName, "FROM scratch AS context\n", []int{1}, "FROM scratch AS contexts\n", nil},
	{jsonArgsRecommended, base + "CMD x\nENTRYPOINT y\n", []int{2, 3}, base + "CMD [\"x\"]\nENTRYPOINT [\"y\"]\n", nil},
	{maintainerDeprecated, "FROM scratch\nMAINTAINER me\n", []int{2}, "FROM scratch\nLABEL maintainer=me\n", nil},
	{undefinedArgInFrom, "ARG TAG=latest\nFROM scratch$TGA\n", []int{2}, "ARG TAG=\nFROM scratch$TAG\n", nil},
	{workdirRelativePath, base + "WORKDIR a\n", []int{2}, base + "WORKDIR /a\nWORKDIR b\n", nil},
	{undefinedVar, "FROM scratch\nLABEL a=$B\n", []int{2}, "FROM scratch\nARG B\nLABEL a=$B\n", nil},
	{multipleInstructions, base + "CMD [\"a\"]\nCMD [\"b\"]\n", []int{2}, base[:len(base)-1] + " AS a\nCMD [\"a\"]\nFROM a\nCMD [\"b\"]\n", nil},
	{legacyKeyValue, "FROM scratch\nENV a b\nLABEL c d\n", []int{2, 3}, "FROM scratch\nENV a=b\nLABEL c=d\n", nil},
	{invalidBasePlatform, "FROM localhost:5731/wrong\n", []int{1}, base, nil},
	{redundantPlatform, "FROM --platform=$TARGETPLATFORM scratch\n", []int{1}, "FROM --platform=$BUILDPLATFORM scratch\n", nil},
	{secretsInArgOrEnv, "FROM scratch\nARG API_TOKEN\nENV PASSWORD=x\n", []int{2, 3}, "FROM scratch\nARG PUBLIC_KEY\nENV TOKEN_FILE=x\n", nil},
	{invalidDefaultInFrom, "ARG TAG\nFROM localhost:5731/base:$TAG\n", []int{2}, "ARG TAG=latest\nFROM localhost:5731/base:$TAG\n", map[string]string{"build-arg:TAG": "latest"}},
	{constPlatform, "FROM --platform=linux/amd64 scratch\n", []int{1}, "FROM --platform=linux/amd64 scratch AS x-amd64\n", nil},
	{copyIgnoredFile, "FROM scratch\nCOPY secret /\nADD secret/x /\n", []int{2, 3}, "FROM scratch\nCOPY public /\n", nil},
	{invalidDescription, "# check=experimental=all\n# what it is for\nFROM scratch AS a\n", []int{3}, "# check=experimental=all\n# a is for nothing\nFROM scratch AS a\n", nil},
	{exposeProtoCasing, "FROM scratch\nEXPOSE 80/TCP\n", []int{2}, "FROM scratch\nEXPOSE 80/tcp\n", nil},
	{exposeInvalidFormat, "FROM scratch\nEXPOSE 127.0.0.1:80:80\n", []int{2}, "FROM scratch\nEXPOSE 80\n", nil},
}

// findings asks for the lines at which a rule is broken.
func findings(t *testing.T, r rule, text string, opts map[string]string) (lines []int, warnings []lintWarning) {
	t.Helper()
	bridge := newFakeBridge(t)
	bridge.files["Dockerfile"] = []byte(text)
	bridge.files[".dockerignore"] = []byte("secret\n")
	wrong := bridge.images["localhost:5731/base"]
	wrong.Configs = map[string]json.RawMessage{"linux/amd64": json.RawMessage(`{"os":"linux","architecture":"s390x"}`)}
	bridge.images["localhost:5731/wrong"] = wrong
	var answer struct {
		Warnings   []lintWarning
		BuildError *struct{ Message string }
	}
	ask(t, bridge, "frontend.lint", opts, &answer)
	if answer.BuildError != nil {
		t.Errorf("%q cannot be built: %s", text, answer.BuildError.Message)
	}
	for _, w := range answer.Warnings {
		if w.RuleName == r.name {
			lines = append(lines, int(w.Location.Ranges[0].Start.Line))
			warnings = append(warnings, w)
		}
	}
	return lines, warnings
}

func TestEachRule(t *testing.T) {
	if len(ruleRows) != 22 {
		t.Errorf("%d rules, BuildKit has 22", len(ruleRows))
	}
	docs, err := os.ReadFile("../../docs/checks.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range ruleRows {
		t.Run(row.rule.name, func(t *testing.T) {
			lines, warnings := findings(t, row.rule, row.bad, row.opts)
			if !slices.Equal(lines, row.lines) {
				t.Errorf("broken at lines %v, want %v:\n%s", lines, row.lines, row.bad)
			}
			for _, w := range warnings {
				if w.Detail == "" || w.Description == "" || w.Fix == "" || w.URL != row.rule.url() {
					t.Errorf("not all is said: %+v", w)
				}
			}
			if lines, _ := findings(t, row.rule, row.good, nil); len(lines) > 0 {
				t.Errorf("found at %v in\n%s", lines, row.good)
			}
			if !strings.Contains(string(docs), "| `"+row.rule.name+"` |") {
				t.Error("docs/checks.md does not have it")
			}
			// The directive, the build argument and the comment above the line silence it.
			text := "# check=skip=" + row.rule.name + "\n" + row.bad
			if row.rule.name == invalidDescription.name {
				return // it is off unless asked for
			}
			if lines, _ := findings(t, row.rule, text, row.opts); len(lines) > 0 {
				t.Errorf("found at %v though the directive skips it", lines)
			}
			opts := map[string]string{"build-arg:BUILDKIT_DOCKERFILE_CHECK": "skip=all"}
			for k, v := range row.opts {
				opts[k] = v
			}
			if lines, _ := findings(t, row.rule, row.bad, opts); len(lines) > 0 {
				t.Errorf("found at %v though the build argument skips it", lines)
			}
		})
	}
}

func TestSummaryOfChecks(t *testing.T) {
	for text, want := range map[string]string{
		"FROM scratch\n":                                      "No warnings found\n",
		"FROM scratch\nMAINTAINER me\n":                       "\n1 warning found\n",
		"FROM scratch AS A\nMAINTAINER me\n":                  "\n2 warnings found\n",
		"FROM scratch\nCOPPY\n":                               "ERROR: dockerfile parse error on line 2: unknown instruction: COPPY",
		"FROM scratch\n# check=skip=all\nMAINTAINER me\n":     "No warnings found\n",
		"# check=error=true\nFROM scratch AS A\nMAINTAINER m": "\n2 warnings found\n",
	} {
		bridge := newFakeBridge(t)
		bridge.files["Dockerfile"] = []byte(text)
		res := ask(t, bridge, "frontend.lint", nil, &struct{}{})
		if got := string(res.Metadata["result.txt"]); !strings.Contains(got, want) {
			t.Errorf("%q: got\n%s\nwithout %q", text, got, want)
		}
		if clean := string(res.Metadata["result.statuscode"]) == "0"; clean != (want == "No warnings found\n") {
			t.Errorf("%q: status %s", text, res.Metadata["result.statuscode"])
		}
	}
}

// A build that fails because of its warnings has shown all of them.
func TestErrorOnWarnings(t *testing.T) {
	got, err := warningsOf(t, "# check=error=true\nFROM scratch AS A\nMAINTAINER me\n", nil)
	if err == nil || len(got) != 2 {
		t.Errorf("%d warnings, error %v", len(got), err)
	}
	for _, r := range []rule{stageNameCasing, maintainerDeprecated} {
		if err != nil && !strings.Contains(fmt.Sprint(err), r.name) {
			t.Errorf("%v does not name %s", err, r.name)
		}
	}
}
