package main

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

func TestImageID(t *testing.T) {
	for _, tc := range []struct {
		name string
		resp map[string]string
		want string
	}{
		{"single platform", map[string]string{keyConfigDigest: "sha256:c", keyDigest: "sha256:m"}, "sha256:c"},
		{"index", map[string]string{keyDigest: "sha256:m"}, "sha256:m"},
		{"no image", nil, ""},
	} {
		if got := imageID(tc.resp); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestResultFiles(t *testing.T) {
	dir := t.TempDir()
	r := resultFiles{iid: filepath.Join(dir, "id"), metadata: filepath.Join(dir, "md.json")}
	for _, f := range []string{r.iid, r.metadata} {
		if err := os.WriteFile(f, []byte("stale"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.clear(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{r.iid, r.metadata} {
		if _, err := os.Lstat(f); err == nil {
			t.Errorf("%s is still there before the build", f)
		}
	}
	if err := r.write("ref", map[string]string{}); err == nil {
		t.Error("no error without an image")
	}
	if _, err := os.Lstat(r.iid); err == nil {
		t.Error("a file without an image")
	}
	desc := base64.StdEncoding.EncodeToString([]byte(`{"size":3}`))
	resp := map[string]string{keyConfigDigest: "sha256:abc", "containerimage.descriptor": desc, "image.name": "docker.io/library/a:latest"}
	if err := r.write("ref", resp); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(r.iid); string(b) != "sha256:abc" {
		t.Errorf("iidfile %q", b)
	}
	fi, err := os.Stat(r.iid)
	if err != nil {
		t.Fatal(err)
	}
	if want := 0o666 &^ umask(); fi.Mode().Perm() != want {
		t.Errorf("iidfile has mode %o, want %o", fi.Mode().Perm(), want)
	}
	var md struct {
		Desc struct{ Size int } `json:"containerimage.descriptor"`
		Name string             `json:"image.name"`
		Ref  string             `json:"buildx.build.ref"`
	}
	b, _ := os.ReadFile(r.metadata)
	if err := json.Unmarshal(b, &md); err != nil {
		t.Fatal(err)
	}
	if md.Desc.Size != 3 || md.Name == "" || md.Ref != "dbuild/dbuild0/ref" {
		t.Errorf("metadata %s", b)
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != 2 {
		t.Errorf("temporary files are left: %v", entries)
	}
}

func TestResultFilesBeforeTheBuild(t *testing.T) {
	dir := t.TempDir()
	if err := (resultFiles{iid: filepath.Join(dir, "no", "id")}).clear(); err == nil {
		t.Error("a missing directory is found too late")
	}
	if err := (resultFiles{iid: dir}).clear(); err == nil {
		t.Error("a directory is taken for a file")
	}
	// What is not a regular file stays: removing /dev/stdout would be no favour.
	if err := (resultFiles{iid: "/dev/null", metadata: "/dev/null"}).clear(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/dev/null"); err != nil {
		t.Fatal(err)
	}
	if err := (resultFiles{iid: "/dev/null"}).write("r", map[string]string{keyDigest: "sha256:m"}); err != nil {
		t.Fatal(err)
	}
}
