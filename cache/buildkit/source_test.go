package buildkit

import (
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// The digests were read from caches that buildkitd v0.33.1 wrote.
func TestSourcesAreNamedAsByBuildKit(t *testing.T) {
	amd64 := &pb.Platform{OS: "linux", Architecture: "amd64"}
	modified := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	const commit = "4bd071fc2b4f324a03eef081f217ae0d4089d438"
	ok := func(s Step, err error) Step {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	for name, c := range map[string]struct {
		step Step
		want digest.Digest
	}{
		"image": {
			ok(Image("sha256:cb8cdb65a01958b177861e60b13974d1c567d5bd8d47f95afc3180007e7e472c", amd64, -1)),
			"sha256:894ecd3ac8153a77d2199310c9010c8c6ad6090269ac769083336bea79f0c45b",
		},
		"file": {
			ok(HTTP(HTTPFile{Name: "file.txt", Digest: "sha256:ce3e30f49d3261bea98bb7e5bc3fce7c8d9ff302c259746d82513e071a10a6c1", ModTime: &modified})),
			"sha256:190e392b722b0a9ae2faf957fecdbdcb71bf26686e7f01e515b9d83e3acc722a",
		},
		"commit": {
			Git(GitTree{ID: commit, Ref: "refs/heads/main"}),
			"sha256:2eea1d11130ca2cb2f317148e17531afb9620416e0e74184aafee45988118d7f",
		},
		"commit with history": {
			Git(GitTree{ID: commit, Ref: "refs/heads/main", KeepGitDir: true}),
			"sha256:c265d475f56baaeaab4f169d01eae3042e9ddf33564b39ddf3fd1704a0b35c14",
		},
	} {
		if got := Record(c.step.Digest, 0); got != c.want {
			t.Errorf("%s: %s, BuildKit's is %s", name, got, c.want)
		}
	}
	seen := map[digest.Digest]bool{}
	for _, g := range []GitTree{
		{ID: commit}, {ID: commit, Subdir: "d"}, {ID: commit, SkipSubmodules: true}, {ID: commit, CommitTime: true},
		{ID: commit, Bundle: true}, {ID: commit, KeepGitDir: true}, {ID: commit, KeepGitDir: true, Ref: "refs/tags/x"},
	} {
		d := Git(g).Digest
		if seen[d] {
			t.Errorf("%+v is named like another", g)
		}
		seen[d] = true
	}
	if limited := ok(Image("sha256:00", amd64, 1)); limited.Digest == ok(Image("sha256:00", amd64, -1)).Digest {
		t.Error("an image with fewer layers has the name of all of it")
	}
}
