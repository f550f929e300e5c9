package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestParseFilters(t *testing.T) {
	for _, tc := range []struct {
		in   []string
		want []string
		age  time.Duration
	}{
		{[]string{"type=regular"}, []string{`type=="regular"`}, 0},
		{[]string{"type=regular,inuse"}, []string{`type=="regular",inuse`}, 0},
		{[]string{"id=a", "id=b"}, []string{`id=="a"`, `id=="b"`}, 0},
		{[]string{"shared=false", "mutable=true"}, []string{"private", "mutable"}, 0},
		{[]string{"until=48h"}, nil, 48 * time.Hour},
		{[]string{"until=90,type=internal"}, []string{`type=="internal"`}, 90 * time.Second},
		{[]string{"unused-for=2d"}, nil, 48 * time.Hour},
		{[]string{"parent=p"}, []string{`parents=="p"`}, 0},
		{[]string{"description~=RUN", "type!=regular"}, []string{"description~=RUN", "type!=regular"}, 0},
	} {
		q, err := parseFilters(tc.in)
		if err != nil || !slices.Equal(q.filters, tc.want) || q.age != tc.age {
			t.Errorf("%q: %q %s %v", tc.in, q.filters, q.age, err)
		}
	}
	for _, bad := range []string{"foo=bar", "type", "inuse=maybe", "inuse=false", "until=x", "until=-1h"} {
		if _, err := parseFilters([]string{bad}); exitCode(err) != exitConfig {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func usage() []*controlapi.UsageRecord {
	at := timestamppb.New(time.Now().Add(-time.Hour))
	return []*controlapi.UsageRecord{
		{ID: "small", Size: 1000, InUse: true, CreatedAt: at, RecordType: "regular", Description: "RUN x", Parents: []string{"large"}},
		{ID: "large", Size: 5000000, Mutable: true, Shared: true, CreatedAt: at, LastUsedAt: at, RecordType: "source.local"},
	}
}

func TestDu(t *testing.T) {
	run := serve(t, &fakeDaemon{usage: usage()})
	_, stdout, _ := run(t.Context(), "du")
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	if len(lines) != 7 || strings.Join(strings.Fields(lines[0]), " ") != "ID RECLAIMABLE SIZE LAST ACCESSED" ||
		!strings.HasPrefix(lines[1], "large*") || !strings.Contains(lines[1], "5MB") || !strings.Contains(lines[1], "About an hour ago") {
		t.Errorf("table\n%s", stdout)
	}
	for _, want := range []string{"Shared:", "Private:", "Reclaimable:", "Total:"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %s in\n%s", want, stdout)
		}
	}
	_, stdout, _ = run(t.Context(), "du", "-v")
	for _, want := range []string{"Parent:      large", "Description: RUN x", "Type:        source.local"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
	_, stdout, _ = run(t.Context(), "du", "--format", "{{.ID}} {{size .Size}}")
	if stdout != "large 5MB\nsmall 1kB\n" {
		t.Errorf("template %q", stdout)
	}
	_, stdout, _ = run(t.Context(), "du", "--format", "json")
	dec := json.NewDecoder(strings.NewReader(stdout))
	for _, id := range []string{"large", "small"} {
		var u client.UsageInfo
		if err := dec.Decode(&u); err != nil || u.ID != id {
			t.Errorf("json %v: %s", err, stdout)
		}
	}
}

func TestPrune(t *testing.T) {
	d := &fakeDaemon{usage: usage()}
	run := serve(t, d)
	code, stdout, stderr := run(t.Context(), "prune", "-a", "-f", "--filter", "type=regular", "--filter", "until=1h",
		"--reserved-space", "1k", "--max-used-space", "2k", "--min-free-space", "3k")
	if code != 0 || !strings.Contains(stdout, "Total:") {
		t.Fatalf("exit %d, %q, %q", code, stdout, stderr)
	}
	req := <-d.pruned
	if !req.All || req.KeepDuration != int64(time.Hour) || req.ReservedSpace != 1024 || req.MaxUsedSpace != 2048 || req.MinFreeSpace != 3072 ||
		!slices.Equal(req.Filter, []string{`type=="regular"`}) {
		t.Errorf("request %v", req)
	}
	// Nobody is at the terminal: it does not ask.
	if code, _, _ := run(t.Context(), "prune", "--keep-storage", "5k", "--keep-duration", "60"); code != 0 {
		t.Fatalf("exit %d", code)
	}
	if req := <-d.pruned; req.All || req.ReservedSpace != 5120 || req.KeepDuration != int64(time.Minute) {
		t.Errorf("request %v", req)
	}
}

func TestDebugWorkers(t *testing.T) {
	run := serve(t, &fakeDaemon{pkg: "p"})
	_, stdout, _ := run(t.Context(), "debug", "workers")
	if !strings.Contains(stdout, "w1  linux/amd64,linux/arm/v7") {
		t.Errorf("%q", stdout)
	}
	_, stdout, _ = run(t.Context(), "debug", "workers", "-v")
	if !strings.Contains(stdout, hostGatewayLabel) {
		t.Errorf("%q", stdout)
	}
	_, stdout, _ = run(t.Context(), "debug", "info")
	if !strings.Contains(stdout, "Package:") || !strings.Contains(stdout, "v9") {
		t.Errorf("%q", stdout)
	}
}
