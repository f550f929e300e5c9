package main

import (
	"encoding/json"
	"strings"
	"testing"
)

const checkAnswer = `{
 "warnings": [
  {"ruleName":"A","description":"a rule","url":"https://x/a","detail":"first","fix":"do","location":{"ranges":[{"start":{"line":3},"end":{"line":4}}]}},
  {"ruleName":"B","description":"b rule","detail":"50%, twice:\nyes","location":{"ranges":[{"start":{"line":2},"end":{"line":2}}]}},
  {"ruleName":"A","description":"a rule","url":"https://x/a","detail":"again","location":{}}
 ],
 "buildError": {"message":"broken","location":{"ranges":[{"start":{"line":9},"end":{"line":9}}]}}
}`

// TestSARIF checks what SARIF 2.1.0 requires, and what code scanning reads.
func TestSARIF(t *testing.T) {
	dt, err := checkReport("sarif", []byte(checkAnswer), "sub/Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var log map[string]any
	if err := json.Unmarshal(dt, &log); err != nil {
		t.Fatal(err)
	}
	// A path of keys and indexes to what must be there.
	at := func(path string) any {
		var v any = log
		for _, key := range strings.Split(path, ".") {
			switch u := v.(type) {
			case map[string]any:
				v = u[key]
			case []any:
				i := int(key[0] - '0')
				if i >= len(u) {
					return nil
				}
				v = u[i]
			default:
				return nil
			}
		}
		return v
	}
	for path, want := range map[string]any{
		"version":                       "2.1.0",
		"$schema":                       "https://json.schemastore.org/sarif-2.1.0.json",
		"runs.0.tool.driver.name":       "dbuild",
		"runs.0.tool.driver.rules.0.id": "A",
		"runs.0.tool.driver.rules.0.shortDescription.text":                   "a rule",
		"runs.0.tool.driver.rules.0.help.text":                               "do",
		"runs.0.tool.driver.rules.0.helpUri":                                 "https://x/a",
		"runs.0.tool.driver.rules.0.defaultConfiguration.level":              "warning",
		"runs.0.tool.driver.rules.1.id":                                      "B",
		"runs.0.tool.driver.rules.1.helpUri":                                 nil,
		"runs.0.tool.driver.rules.2.id":                                      "BuildError",
		"runs.0.tool.driver.rules.3":                                         nil,
		"runs.0.results.0.ruleId":                                            "A",
		"runs.0.results.0.ruleIndex":                                         0.0,
		"runs.0.results.0.level":                                             "warning",
		"runs.0.results.0.message.text":                                      "first",
		"runs.0.results.0.locations.0.physicalLocation.artifactLocation.uri": "sub/Dockerfile",
		"runs.0.results.0.locations.0.physicalLocation.region.startLine":     3.0,
		"runs.0.results.0.locations.0.physicalLocation.region.endLine":       4.0,
		"runs.0.results.1.ruleIndex":                                         1.0,
		"runs.0.results.2.ruleIndex":                                         0.0,
		"runs.0.results.2.locations.0.physicalLocation.region":               nil,
		"runs.0.results.3.level":                                             "error",
		"runs.0.results.3.ruleIndex":                                         2.0,
		"runs.0.results.3.message.text":                                      "broken",
		"runs.0.results.4":                                                   nil,
	} {
		if got := at(path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
	// A clean file has lists all the same: null is not allowed.
	dt, err = checkReport("sarif", []byte(`{"warnings":null}`), "Dockerfile")
	if err != nil || !strings.Contains(string(dt), `"results": []`) || !strings.Contains(string(dt), `"rules": []`) {
		t.Errorf("%s, %v", dt, err)
	}
	for _, bad := range []string{"", "x"} {
		if _, err := checkReport("sarif", []byte(bad), "Dockerfile"); err == nil {
			t.Errorf("no error for the answer %q", bad)
		}
	}
}

func TestAnnotations(t *testing.T) {
	dt, err := checkReport("github", []byte(checkAnswer), "a,b/Dockerfile")
	want := `::warning file=a%2Cb/Dockerfile,line=3,endLine=4,title=A::first
::warning file=a%2Cb/Dockerfile,line=2,endLine=2,title=B::50%25, twice:%0Ayes
::warning file=a%2Cb/Dockerfile,title=A::again
::error file=a%2Cb/Dockerfile,line=9,endLine=9,title=BuildError::broken
`
	if err != nil || string(dt) != want {
		t.Errorf("got\n%s%v\nwant\n%s", dt, err, want)
	}
}
