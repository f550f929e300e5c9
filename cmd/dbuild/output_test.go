package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creack/pty"
	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/docker/cli/cli/config/configfile"
)

// send does what the session does with an output.
func send(t *testing.T, o *outputs, i int, data string) error {
	t.Helper()
	w, err := o.entries[i].Output(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(data)); err != nil {
		return err
	}
	return w.Close()
}

func TestOutputFileAppearsOnSuccessOnly(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.tar")
	exports := []buildflags.Export{{Type: "tar", Sink: buildflags.File, Dest: path}}
	a := &app{}
	o, err := a.openOutputs(context.Background(), exports, &configfile.ConfigFile{})
	if err != nil {
		t.Fatal(err)
	}
	if err := send(t, o, 0, "partial"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Fatal("there before the build has succeeded")
	}
	o.discard()
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Fatalf("left: %v", entries)
	}
	if o, err = a.openOutputs(context.Background(), exports, &configfile.ConfigFile{}); err != nil {
		t.Fatal(err)
	}
	if err := send(t, o, 0, "whole"); err != nil {
		t.Fatal(err)
	}
	if err := o.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	o.discard()
	if b, err := os.ReadFile(path); err != nil || string(b) != "whole" {
		t.Fatalf("%q %v", b, err)
	}
}

func TestOutputReplacesTheTargetOfALink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "target"), filepath.Join(dir, "link")
	if err := os.WriteFile(target, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("target", link); err != nil {
		t.Fatal(err)
	}
	o, err := (&app{}).openOutputs(context.Background(), []buildflags.Export{{Type: "tar", Sink: buildflags.File, Dest: link}}, &configfile.ConfigFile{})
	if err != nil {
		t.Fatal(err)
	}
	if err := send(t, o, 0, "new"); err != nil {
		t.Fatal(err)
	}
	if err := o.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(target); string(b) != "new" {
		t.Fatalf("target has %q", b)
	}
}

func TestOutputsRefuse(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, e := range map[string]buildflags.Export{
		"directory for a file": {Type: "tar", Sink: buildflags.File, Dest: dir},
		"missing directory":    {Type: "tar", Sink: buildflags.File, Dest: filepath.Join(dir, "no", "x")},
		"file for a directory": {Type: "local", Sink: buildflags.Dir, Dest: file},
	} {
		if _, err := (&app{}).openOutputs(context.Background(), []buildflags.Export{e}, &configfile.ConfigFile{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	t.Setenv("PATH", dir)
	_, err := (&app{}).openOutputs(context.Background(), []buildflags.Export{{Type: "docker", Sink: buildflags.Docker}}, &configfile.ConfigFile{})
	if err == nil || !strings.Contains(err.Error(), "docker") {
		t.Errorf("without docker: %v", err)
	}
}

// fakeDocker puts a docker command on the PATH.
func fakeDocker(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte("#!/bin/sh\ntest \"$1\" = version && exit\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestDockerLoad(t *testing.T) {
	got := filepath.Join(t.TempDir(), "got")
	fakeDocker(t, `test "$1" = load && cat > `+got+` && echo "Loaded image: x"`)
	var stderr bytes.Buffer
	o, err := (&app{stderr: &stderr}).openOutputs(context.Background(), []buildflags.Export{{Type: "docker", Sink: buildflags.Docker}}, &configfile.ConfigFile{})
	if err != nil {
		t.Fatal(err)
	}
	if err := send(t, o, 0, "image"); err != nil {
		t.Fatal(err)
	}
	if err := o.commit(context.Background()); err != nil {
		t.Fatal(err)
	}
	o.discard()
	if b, _ := os.ReadFile(got); string(b) != "image" {
		t.Errorf("docker got %q", b)
	}
	if !strings.Contains(stderr.String(), "Loaded image: x") {
		t.Errorf("docker's words are lost: %q", stderr.String())
	}
}

func TestDockerLoadFails(t *testing.T) {
	fakeDocker(t, `cat > /dev/null; echo "no engine" >&2; exit 1`)
	o, err := (&app{stderr: &bytes.Buffer{}}).openOutputs(context.Background(), []buildflags.Export{{Type: "docker", Sink: buildflags.Docker}}, &configfile.ConfigFile{})
	if err != nil {
		t.Fatal(err)
	}
	if err := send(t, o, 0, "image"); err != nil {
		t.Fatal(err)
	}
	if err := o.commit(context.Background()); err == nil || !strings.Contains(err.Error(), "no engine") {
		t.Errorf("got %v", err)
	}
}

// An image that the engine has is not sent again; it gets its names.
func TestDockerHasTheImage(t *testing.T) {
	const md = "containerimage.config.digest"
	dir := t.TempDir()
	fakeDocker(t, `case "$1 $2 $3" in
"image inspect sha256:known") ;;
"tag sha256:known a:1") touch `+dir+`/a ;;
"tag sha256:known b:1") touch `+dir+`/b ;;
"load  ") cat > `+dir+`/loaded ;;
*) exit 1 ;;
esac`)
	for _, tc := range []struct {
		id, names string
		sent      bool
	}{
		{"sha256:known", "a:1,b:1", false},
		{"sha256:known", "", false},
		{"sha256:other", "a:1", true},
		{"sha256:known", "cannot:1", true},
	} {
		var stderr bytes.Buffer
		o, err := (&app{stderr: &stderr}).openOutputs(context.Background(), []buildflags.Export{{Type: "docker", Sink: buildflags.Docker}}, &configfile.ConfigFile{})
		if err != nil {
			t.Fatal(err)
		}
		w, err := o.entries[0].Output(map[string]string{md: tc.id, "image.name": tc.names})
		if err != nil || (w != nil) != tc.sent {
			t.Fatalf("%+v: writer %v, error %v", tc, w, err)
		}
		if w != nil {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if err := o.commit(context.Background()); err != nil {
			t.Errorf("%+v: %v", tc, err)
		}
		o.discard()
		if !tc.sent && !strings.Contains(stderr.String(), tc.id) {
			t.Errorf("%+v: said %q", tc, stderr.String())
		}
	}
	for _, name := range []string{"a", "b"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestTerminalIsRefused(t *testing.T) {
	ptmx, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer ptmx.Close()
	defer tty.Close()
	exports := []buildflags.Export{{Type: "tar", Sink: buildflags.Stdout}}
	if _, err := (&app{stdout: tty}).openOutputs(context.Background(), exports, &configfile.ConfigFile{}); err == nil || !strings.Contains(err.Error(), "terminal") {
		t.Errorf("a terminal: %v", err)
	}
	if _, err := (&app{stdout: &bytes.Buffer{}}).openOutputs(context.Background(), exports, &configfile.ConfigFile{}); err != nil {
		t.Errorf("a pipe: %v", err)
	}
}
