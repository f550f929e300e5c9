package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

const name = "TestIntegration/TestA/worker=oci"

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		about, log string
		want       result
	}{
		{"passed", "=== RUN " + name + "\n--- PASS: TestIntegration (0.1s)\n    --- PASS: " + name + " (0.1s)\nPASS\n", result{Outcome: passed}},
		{"another passed", "    --- PASS: " + name + "/frontend=client (0.1s)\nPASS\n", result{Outcome: failed, Why: "no result"}},
		{"skipped", "    features.go:98: needs containerd\n    --- SKIP: " + name + " (0.1s)\nPASS\n", result{Outcome: skipped, Why: "needs containerd"}},
		{"an error without its stack", "    a_test.go:1: \n        \tError:      \tReceived unexpected error:\n        \t            \tno such file\n        \t            \tgithub.com/moby/buildkit/client.f\n        \t            \t\tgithub.com/x.go:1\n        \tTest:       \t" + name + "\n    --- FAIL: " + name + " (0.1s)\nFAIL\n", result{Outcome: failed, Why: "no such file"}},
		{"a panic of the daemon", "    --- FAIL: " + name + " (0.1s)\nFAIL\n" + daemonLogLine + "\npanic: nil map\n", result{Outcome: failed, Why: "daemon: panic: nil map"}},
		{"a hang", timeoutLine + " 3m0s\n", result{Outcome: failed, Why: "timeout after 3m0s"}},
		{"passed, then the process failed", "    --- PASS: " + name + " (0.1s)\nFAIL\n", result{Outcome: failed, Why: "no result"}},
		{"nothing", "", result{Outcome: failed, Why: "no result"}},
	} {
		if got := judge(name, c.log); got != c.want {
			t.Errorf("%s: %+v, want %+v", c.about, got, c.want)
		}
	}
}

func TestPatternIsOfOneLeaf(t *testing.T) {
	l := leaf{"client", "TestIntegration/TestA/worker=oci/security.insecure=granted"}
	for part, want := range map[string]bool{"security.insecure=granted": true, "securityxinsecure=granted": false} {
		last := l.pattern()[strings.LastIndex(l.pattern(), "/")+1:]
		if regexp.MustCompile(last).MatchString(part) != want {
			t.Errorf("%s matches %s: not %v", last, part, want)
		}
	}
}

func TestResultsSurviveTheFile(t *testing.T) {
	file := resultsFile(t.TempDir(), "dbuild")
	want := results{{"client", name}: {Outcome: failed, Took: 1500e6, Why: "why\tnot"}, {"solver", name}: {Outcome: passed}}
	if err := want.write(file); err != nil {
		t.Fatal(err)
	}
	got, err := readResults(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("%v", got)
	}
	for l, r := range want {
		if got[l] != r {
			t.Errorf("%v: %+v, want %+v", l, got[l], r)
		}
	}
}

func TestTablesAreWellFormed(t *testing.T) {
	for file, table := range map[string]string{"groups.tsv": groupsTable, "reasons.tsv": reasonsTable} {
		if _, err := parseRules(table); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

func TestReportCountsWhatStockPasses(t *testing.T) {
	r := &report{
		stock:  results{{"client", name}: {Outcome: passed}, {"client", name + "/a=b"}: {Outcome: passed}, {"client", "x/y"}: {Outcome: failed, Why: "a|b"}},
		dbuild: results{{"client", name}: {Outcome: passed}, {"client", name + "/a=b"}: {Outcome: failed}, {"client", "x/y"}: {Outcome: failed}},
		groups: &grouper{},
	}
	file := filepath.Join(t.TempDir(), "report.md")
	if err := r.write(file); err != nil {
		t.Fatal(err)
	}
	dt, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Of 3 leaves a stock buildkitd passes 2; dbuild passes 1 of these (50.0 %), and 1 in all.",
		"| client `" + name + "/a=b` | unexplained |",
		`a\|b`,
	} {
		if !strings.Contains(string(dt), want) {
			t.Errorf("no %q in\n%s", want, dt)
		}
	}
}

func TestDNSKnowsFewNames(t *testing.T) {
	for host, want := range map[string]dnsmessage.RCode{"github.com.": dnsmessage.RCodeSuccess, "docker.io.": dnsmessage.RCodeNameError} {
		q := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(host), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
		dt, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if dt, err = answerDNS(dt); err != nil {
			t.Fatal(err)
		}
		var a dnsmessage.Message
		if err := a.Unpack(dt); err != nil || a.RCode != want || (len(a.Answers) == 1) != (want == dnsmessage.RCodeSuccess) {
			t.Errorf("%s: %+v, %v", host, a, err)
		}
	}
}

func TestShimTranslatesFlags(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	if err := os.WriteFile(program, []byte("#!/bin/sh\necho \"$@\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	bin, err := daemonDir(dir, "dbuild", dir, program)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(filepath.Join(bin, "buildkitd"), "--oci-worker=true", "--containerd-worker=false", "--oci-worker-gc=false",
		"--oci-worker-labels=a=b", "--config=/x y", "--root", "/r", "--debug").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(out), "daemon --no-gc --worker-label a=b --config=/x y --root /r --debug\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
