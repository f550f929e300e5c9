package device_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/dbuild/dbuild/worker/device"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const vendor1 = `
cdiVersion: "0.6.0"
kind: "vendor1.com/device"
annotations:
  org.mobyproject.buildkit.device.autoallow: true
devices:
- name: foo
  annotations: {org.mobyproject.buildkit.device.class: class1}
  containerEdits: {env: [FOO=injected]}
- name: bar
  annotations: {org.mobyproject.buildkit.device.class: class1}
  containerEdits: {env: [BAR=injected]}
- name: baz
  containerEdits: {env: [BAZ=injected]}
`

const vendor2 = `
cdiVersion: "0.6.0"
kind: "vendor2.com/device"
devices:
- name: one
  containerEdits: {env: [ONE=injected]}
`

func names(list []device.Device) []string {
	var out []string
	for _, d := range list {
		out = append(out, d.Name)
	}
	return out
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	d, err := device.New(device.Config{SpecDirs: []string{dir, filepath.Join(dir, "missing")}})
	must(t, err)
	if list := d.List(); len(list) > 0 {
		t.Fatalf("got %v", list)
	}
	must(t, os.WriteFile(filepath.Join(dir, "vendor1.yaml"), []byte(vendor1), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "broken.yaml"), []byte("}"), 0o600))
	for _, test := range []struct {
		name string
		want []string
	}{
		{"vendor1.com/device=foo", []string{"vendor1.com/device=foo"}},
		{"vendor1.com/device", []string{"vendor1.com/device=bar"}},
		{"vendor1.com/device=*", []string{"vendor1.com/device=bar", "vendor1.com/device=baz", "vendor1.com/device=foo"}},
		{"class1", []string{"vendor1.com/device=bar", "vendor1.com/device=foo"}},
		{"vendor1.com/device=none", nil},
		{"vendor1.com/other", nil},
		{"vendor1.com/device=", nil},
		{"", nil},
		{"=*", nil},
	} {
		if got := names(d.Find(test.name)); !slices.Equal(got, test.want) {
			t.Errorf("%q: got %q, want %q", test.name, got, test.want)
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, "vendor2.yaml"), []byte(vendor2), 0o600))
	if got := names(d.Find("vendor2.com/device")); len(got) != 1 {
		t.Errorf("a new file is not noticed: %q", got)
	}
	must(t, os.Remove(filepath.Join(dir, "vendor2.yaml")))
	if got := names(d.Find("vendor2.com/device")); len(got) != 0 {
		t.Errorf("a file that is gone is not noticed: %q", got)
	}
}

func TestAutoAllow(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "vendor1.yaml"), []byte(vendor1), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "vendor2.yaml"), []byte(vendor2), 0o600))
	for _, test := range []struct {
		allowed string
		want    bool
	}{{"", false}, {"vendor2.com/device", true}, {"vendor2.com/device=one", true}, {"vendor2.com/device=two", false}, {"*", true}} {
		d, err := device.New(device.Config{SpecDirs: []string{dir}, AutoAllowed: []string{test.allowed}})
		must(t, err)
		if dev := d.Find("vendor2.com/device=one"); len(dev) != 1 || dev[0].AutoAllow != test.want {
			t.Errorf("%q: got %+v", test.allowed, dev)
		}
		if dev := d.Find("vendor1.com/device=foo"); len(dev) != 1 || !dev[0].AutoAllow {
			t.Errorf("annotated: got %+v", dev)
		}
	}
}

func TestInject(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "vendor1.yaml"), []byte(vendor1), 0o600))
	d, err := device.New(device.Config{SpecDirs: []string{dir}})
	must(t, err)
	d.List()
	s := &specs.Spec{Process: &specs.Process{Env: []string{"A=b"}}}
	must(t, d.Inject(s, []string{"vendor1.com/device=foo", "vendor1.com/device=baz"}))
	if want := []string{"A=b", "FOO=injected", "BAZ=injected"}; !slices.Equal(s.Process.Env, want) {
		t.Errorf("got %q", s.Process.Env)
	}
	if err := d.Inject(s, []string{"vendor1.com/device=none"}); err == nil {
		t.Error("a device that is not there was given")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
