package dockerfile

import (
	"cmp"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/dbuild/dbuild/frontend"
)

// warningsOf builds a Dockerfile and returns what it was warned about.
func warningsOf(t *testing.T, text string, opts map[string]string) ([]string, error) {
	t.Helper()
	bridge := newFakeBridge(t)
	bridge.files["Dockerfile"] = []byte(text)
	_, err := New().Solve(t.Context(), bridge, &frontend.Request{Opts: opts})
	var short []string
	for _, w := range bridge.warnings {
		short = append(short, w.Short)
	}
	return short, err
}

// Clients compare these texts and link to these pages.
func TestWarningTexts(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []string
	}{
		{"casing", "FROM scratch as Base\nLABEL a=b\nlabel b=c\n", []string{
			"FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)",
			"StageNameCasing: Stage name 'Base' should be lowercase (line 1)",
			"ConsistentInstructionCasing: Command 'label' should match the case of the command majority (uppercase) (line 3)",
		}},
		{"typo", "FROM scratch\nENV PATH=$PAHT:/x\n", []string{
			"UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?) (line 2)",
		}},
		{"legacy", "FROM scratch\nENV a b\n", []string{
			`LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 2)`,
		}},
		{"skipped here", "FROM scratch\n# check=skip=LegacyKeyValueFormat,JSONArgsRecommended // it is old\nENV a b\nENV a b\n", []string{
			`LegacyKeyValueFormat: "ENV key=value" should be used instead of legacy "ENV key value" format (line 4)`,
		}},
		{"description", "# check=experimental=InvalidDefinitionDescription\n# b it is\nARG a=1\n\n# about\nARG a c\n#\nARG d\n# base it is\nFROM scratch AS base\n", []string{
			"InvalidDefinitionDescription: Comment for ARG should follow the format: `# a <description>` (line 3)",
			"InvalidDefinitionDescription: Comment for ARG should follow the format: `# <arg_key> <description>` (line 6)",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := warningsOf(t, c.text, nil)
			if err != nil {
				t.Fatal(err)
			}
			line := func(s string) string { return s[strings.LastIndex(s, "(line"):] }
			slices.SortFunc(got, func(a, b string) int {
				return cmp.Or(strings.Compare(line(a), line(b)), strings.Compare(a, b))
			})
			if d := gocmp.Diff(c.want, got); d != "" {
				t.Errorf("warnings (-want +got):\n%s", d)
			}
		})
	}
}

// What is wrong above a line that cannot be read is said all the same.
func TestWarningsBeforeAnError(t *testing.T) {
	got, err := warningsOf(t, "FROM scratch AS X\nMAINTAINER me\nBADCMD\n", nil)
	if err == nil || err.Error() != "dockerfile parse error on line 3: unknown instruction: BADCMD" {
		t.Errorf("error %v", err)
	}
	want := []string{
		"StageNameCasing: Stage name 'X' should be lowercase (line 1)",
		"MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)",
	}
	if d := gocmp.Diff(want, got); d != "" {
		t.Errorf("warnings (-want +got):\n%s", d)
	}
	var answer struct {
		Warnings   []lintWarning
		BuildError struct{ Message string }
	}
	bridge := newFakeBridge(t)
	bridge.files["Dockerfile"] = []byte("FROM scratch AS X\nMAINTAINER me\nBADCMD\n")
	res := ask(t, bridge, "frontend.lint", nil, &answer)
	if len(answer.Warnings) != 2 || !strings.Contains(answer.BuildError.Message, "BADCMD") || string(res.Metadata["result.statuscode"]) != "1" {
		t.Errorf("lint: %+v", answer)
	}
}
