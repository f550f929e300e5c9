package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/moby/buildkit/solver/pb"
)

// checked is the answer to --call=check, in the form of BuildKit's frontends.
type checked struct {
	Warnings []struct {
		RuleName    string       `json:"ruleName"`
		Description string       `json:"description"`
		URL         string       `json:"url"`
		Detail      string       `json:"detail"`
		Fix         string       `json:"fix"` // only ours say it
		Location    *pb.Location `json:"location"`
	} `json:"warnings"`
	Error *struct {
		Message  string       `json:"message"`
		Location *pb.Location `json:"location"`
	} `json:"buildError"`
}

// brokenRule is the id under which reports have what is wrong with the Dockerfile itself.
const brokenRule = "BuildError"

// A problem is what a report has one entry for.
type problem struct {
	rule, level, text string
	first, last       int // lines; 0 if it is about none
}

func (c *checked) problems() []problem {
	var out []problem
	for _, w := range c.Warnings {
		p := problem{rule: w.RuleName, level: "warning", text: w.Detail}
		p.first, p.last = lines(w.Location)
		out = append(out, p)
	}
	if c.Error != nil {
		p := problem{rule: brokenRule, level: "error", text: c.Error.Message}
		p.first, p.last = lines(c.Error.Location)
		out = append(out, p)
	}
	return out
}

func lines(at *pb.Location) (first, last int) {
	for _, r := range at.GetRanges() {
		from, to := int(r.GetStart().GetLine()), int(r.GetEnd().GetLine())
		if first == 0 || from < first {
			first = from
		}
		last = max(last, from, to)
	}
	return first, last
}

// checkReport turns the answer to --call=check into what code scanning reads. The file is
// the Dockerfile's path as seen from where the command runs.
func checkReport(format string, answer []byte, file string) ([]byte, error) {
	var c checked
	if len(answer) == 0 {
		return nil, errors.New("the daemon gave no answer in JSON")
	}
	if err := json.Unmarshal(answer, &c); err != nil {
		return nil, fmt.Errorf("the daemon's answer: %w", err)
	}
	if format == "github" {
		return c.annotations(file), nil
	}
	return json.MarshalIndent(c.sarif(file), "", "  ")
}

// annotations are the workflow commands of GitHub that mark lines of a change.
func (c *checked) annotations(file string) []byte {
	value := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A")
	property := strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A", ":", "%3A", ",", "%2C")
	var out strings.Builder
	for _, p := range c.problems() {
		fmt.Fprintf(&out, "::%s file=%s", p.level, property.Replace(file))
		if p.first > 0 {
			fmt.Fprintf(&out, ",line=%d,endLine=%d", p.first, p.last)
		}
		fmt.Fprintf(&out, ",title=%s::%s\n", property.Replace(p.rule), value.Replace(p.text))
	}
	return []byte(out.String())
}

// What of SARIF 2.1.0 a report has.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool struct {
			Driver sarifDriver `json:"driver"`
		} `json:"tool"`
		Results []sarifResult `json:"results"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID      string      `json:"id"`
		Short   sarifText   `json:"shortDescription"`
		Help    *sarifText  `json:"help,omitempty"`
		HelpURI string      `json:"helpUri,omitempty"`
		Default sarifConfig `json:"defaultConfiguration"`
	}
	sarifConfig struct {
		Level string `json:"level"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		RuleIndex int             `json:"ruleIndex"`
		Level     string          `json:"level"`
		Message   sarifText       `json:"message"`
		Locations []sarifLocation `json:"locations"`
	}
	sarifLocation struct {
		Physical struct {
			Artifact struct {
				URI string `json:"uri"`
			} `json:"artifactLocation"`
			Region *sarifRegion `json:"region,omitempty"`
		} `json:"physicalLocation"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
		EndLine   int `json:"endLine"`
	}
)

func (c *checked) sarif(file string) sarifLog {
	run := sarifRun{Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "dbuild", Version: version(), Rules: []sarifRule{}}
	index := map[string]int{}
	rule := func(r sarifRule) {
		if _, known := index[r.ID]; !known {
			index[r.ID] = len(run.Tool.Driver.Rules)
			run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, r)
		}
	}
	for _, w := range c.Warnings {
		r := sarifRule{ID: w.RuleName, Short: sarifText{w.Description}, HelpURI: w.URL, Default: sarifConfig{"warning"}}
		if w.Fix != "" {
			r.Help = &sarifText{w.Fix}
		}
		rule(r)
	}
	if c.Error != nil {
		rule(sarifRule{ID: brokenRule, Short: sarifText{"The Dockerfile cannot be built"}, Default: sarifConfig{"error"}})
	}
	for _, p := range c.problems() {
		var at sarifLocation
		at.Physical.Artifact.URI = file
		if p.first > 0 {
			at.Physical.Region = &sarifRegion{p.first, p.last}
		}
		run.Results = append(run.Results, sarifResult{
			RuleID: p.rule, RuleIndex: index[p.rule], Level: p.level, Message: sarifText{p.text}, Locations: []sarifLocation{at},
		})
	}
	return sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}}
}

// dockerfilePath is where the Dockerfile of a request is, as a path with slashes that begins
// where the command runs, or its name if it is on no disk of ours.
func dockerfilePath(req *buildflags.Request) string {
	name := filepath.ToSlash(req.Attrs["filename"])
	dir := req.Locals["dockerfile"]
	if dir == "" {
		return name
	}
	return path.Join(filepath.ToSlash(dir), name)
}
