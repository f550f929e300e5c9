package dockerfile

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dbuild/dbuild/frontend"
)

// ask sends a subrequest and decodes its answer.
func ask(t *testing.T, bridge *fakeBridge, id string, opts map[string]string, answer any) *frontend.Result {
	t.Helper()
	all := map[string]string{"requestid": id, "frontend.caps": "moby.buildkit.frontend.subrequests"}
	for k, v := range opts {
		all[k] = v
	}
	res, err := New().Solve(t.Context(), bridge, &frontend.Request{Opts: all})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(res.Metadata["result.json"], answer); err != nil {
		t.Fatal(err)
	}
	return res
}

const outlined = `ARG UNUSED=1
ARG PART=a
ARG LATER=${PART}b
# IMAGE is where it begins
ARG IMAGE=localhost:5731/${TYPO}base
FROM ${IMAGE} AS one
# MODE says how
ARG MODE=fast LATER
ARG TARGETARCH
RUN --mount=type=secret,id=key-$MODE --mount=type=ssh x
FROM ${LATER} AS unneeded
RUN --mount=type=secret,id=other x
# last is what is shipped
FROM scratch AS last
ARG IMAGE
COPY --from=one /x /
RUN --mount=type=ssh,required --mount=type=cache,target=/c --mount=type=cache,id=named,target=/d y
`

func TestOutline(t *testing.T) {
	bridge := newFakeBridge(t)
	bridge.files["Dockerfile"] = []byte(outlined)
	var got outline
	res := ask(t, bridge, "frontend.outline", map[string]string{"build-arg:MODE": "slow"}, &got)
	type row struct {
		name, description, value string
		line                     int
	}
	var args []row
	for _, a := range got.Args {
		args = append(args, row{a.Name, a.Description, a.Value, firstLine(a.Location)})
	}
	want := []row{
		{"PART", "", "a", 2},
		{"MODE", "says how", "slow", 8},
		{"LATER", "", "ab", 8},
		{"TARGETARCH", "", "amd64", 9},
		{"IMAGE", "is where it begins", "localhost:5731/base", 15},
	}
	if d := cmp.Diff(want, args, cmp.AllowUnexported(row{})); d != "" {
		t.Errorf("args (-want +got):\n%s", d)
	}
	if string(got.Sources[0]) != outlined || got.Name != "last" || got.Description != "is what is shipped" {
		t.Errorf("outline of %q, %q", got.Name, got.Description)
	}
	if len(got.Secrets) != 1 || got.Secrets[0].Name != "key-slow" || got.Secrets[0].Required || firstLine(got.Secrets[0].Location) != 10 {
		t.Errorf("secrets %v", got.Secrets)
	}
	if len(got.SSH) != 1 || got.SSH[0].Name != "default" || !got.SSH[0].Required || firstLine(got.SSH[0].Location) != 10 {
		t.Errorf("agents %v", got.SSH)
	}
	if len(got.Cache) != 2 || got.Cache[0].ID != "/c" || got.Cache[1].ID != "named" {
		t.Errorf("caches %v", got.Cache)
	}
	const text = `TARGET:      last
DESCRIPTION: is what is shipped

BUILD ARG    VALUE                 DESCRIPTION
PART         a                     
MODE         slow                  says how
LATER        ab                    
TARGETARCH   amd64                 
IMAGE        localhost:5731/base   is where it begins

SECRET     REQUIRED
key-slow   

SSH       REQUIRED
default   true

CACHE MOUNT
/c
named

`
	if d := cmp.Diff(text, string(res.Metadata["result.txt"])); d != "" {
		t.Errorf("text (-want +got):\n%s", d)
	}
	if string(res.Metadata["version"]) != "1.0.0" {
		t.Errorf("version %s", res.Metadata["version"])
	}
}

// An argument that is redefined depends on all that it was made of.
func TestOutlineRedefinedArgs(t *testing.T) {
	bridge := newFakeBridge(t)
	bridge.files["Dockerfile"] = []byte("ARG A=1\nARG B=2\nARG C=3\nARG A=${A}${B}\nFROM scratch\nARG A\nARG D=x\nARG D=${D}${A}\n")
	var got outline
	ask(t, bridge, "frontend.outline", nil, &got)
	var args []string
	for _, a := range got.Args {
		args = append(args, a.Name+"="+a.Value)
	}
	if d := cmp.Diff([]string{"B=2", "A=12", "D=x12"}, args); d != "" {
		t.Error(d)
	}
	ask(t, bridge, "frontend.outline", map[string]string{"build-arg:A": "9"}, &got)
	if len(got.Args) != 2 || got.Args[0].Value != "9" {
		t.Errorf("a build arg replaces what a default needs: %v", got.Args)
	}
}

func TestDescribe(t *testing.T) {
	bridge := newFakeBridge(t)
	bridge.files["Dockerfile"] = []byte("FROM scratch\n")
	var list []request
	ask(t, bridge, "frontend.subrequests.describe", nil, &list)
	if len(list) != 5 {
		t.Fatalf("%d subrequests", len(list))
	}
	for _, r := range list {
		if r.Type != "rpc" || r.Version == "" || r.Description == "" || r.Metadata[0].Name != "result.json" {
			t.Errorf("%+v", r)
		}
		res := ask(t, bridge, r.Name, nil, new(any))
		if got := string(res.Metadata["version"]); got != r.Version {
			t.Errorf("%s answers with version %q, not %q", r.Name, got, r.Version)
		}
		for _, m := range r.Metadata {
			if _, ok := res.Metadata[m.Name]; !ok {
				t.Errorf("%s has no %s", r.Name, m.Name)
			}
		}
	}
}
