package llb_test

import (
	"testing"
	"time"

	"github.com/dbuild/dbuild/llb"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	amd = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	arm = ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
)

// The digests are those that client/llb of BuildKit v0.33.1 gives to the same ops.
func TestDigestsAreBuildKits(t *testing.T) {
	const zero = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	created := time.Unix(1700000000, 5)
	img := llb.Image("alpine", llb.ImageOptions{}, llb.Meta{})
	src := llb.Local("context", llb.LocalOptions{SessionID: "s1"}, llb.Meta{})
	run := llb.Exec(llb.ExecOptions{
		Root: img, Args: []string{"/bin/sh", "-c", "true"}, Env: []string{"A=1", "B=2", "A=3"}, Cwd: "/w", User: "me",
	}, llb.Meta{})
	mounts := llb.Exec(llb.ExecOptions{
		Root: img, Args: []string{"make"}, Cwd: "/w", Hostname: "hn", CgroupParent: "cg", ExitCodes: []int32{0, 3},
		ExtraHosts: []*pb.HostIP{{Host: "h", IP: "1.2.3.4"}},
		Ulimits:    []*pb.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}},
		Proxy:      &pb.ProxyEnv{HttpProxy: "p"},
		Network:    pb.NetMode_HOST, Security: pb.SecurityMode_INSECURE,
		Mounts: []llb.Mount{
			{Target: "/z", Source: src, Readonly: true, Selector: "/sub"},
			{Target: "/c", CacheID: "id", Sharing: pb.CacheSharingOpt_LOCKED},
			{Target: "/t", Tmpfs: true, TmpfsSize: 4096},
			{Target: "/b", Source: src},
			{Target: "/a", Source: img, NoOutput: true},
			{Target: "/e", Source: llb.Image("alpine:latest", llb.ImageOptions{}, llb.Meta{}), Readonly: true, ContentCache: pb.MountContentCache_OFF},
		},
		Secrets: []llb.Secret{
			{ID: "x", Target: "/run/secrets/x", Mode: 0o400, Optional: true},
			{ID: "y", Env: "Y"},
		},
		SSH:      []llb.SSH{{ID: "default", Mode: 0o600}},
		Platform: &arm,
	}, llb.Meta{})
	mountB, ok := mounts.Mount("/b")
	if !ok {
		t.Fatal("no output for /b")
	}
	readonly := llb.Exec(llb.ExecOptions{Root: img, RootReadonly: true, Args: []string{"x"}, Cwd: "/", Mounts: []llb.Mount{{Target: "/o"}}}, llb.Meta{})
	mountO, _ := readonly.Mount("/o")

	for name, tt := range map[string]struct {
		out  llb.Output
		want string
	}{
		"image": {img, "sha256:a7f9733e307dd352c82d43053b783dd17bb2ec2c36214908ce393e41545c8b51"},
		"image options": {
			llb.Image("docker.io/library/alpine:3.20", llb.ImageOptions{Platform: &arm, ResolveMode: "pull", RecordType: "internal"}, llb.Meta{}),
			"sha256:372be998c68513901860fab5fbbf295cbbf4f80fb9de90fec739d69f64aa429d",
		},
		"image constraint": {
			llb.Image("alpine", llb.ImageOptions{}, llb.Meta{Constraints: []string{"a==b"}}),
			"sha256:724a4ca46844dd38feb9151b9a6a71d10335608e1464643a77a4a2aed61aad7c",
		},
		"local": {src, "sha256:fbe4a890a9f14cd426139404ab1f7902056af26ba467ec9398d37c20459edb79"},
		"local options": {
			llb.Local("context", llb.LocalOptions{
				Unique: "u", IncludePatterns: []string{"a", "<b>"}, ExcludePatterns: []string{"c"},
				FollowPaths: []string{"d"}, SharedKeyHint: "h", Differ: "none",
			}, llb.Meta{}),
			"sha256:18821f1cc530b8c127df0d51228847143f8b238d99038f41482a0fae671cc9bb",
		},
		"http": {
			llb.HTTP("https://example.com/a", llb.HTTPOptions{Checksum: zero, Filename: "f", Perm: 0o755, UID: 1, GID: 2}, llb.Meta{}),
			"sha256:5693c3082e388f9c8b0e315c7588f091090cd027a3cdc2f4a8e4ceec908d2f68",
		},
		"git": {
			llb.Git("https://github.com/moby/buildkit.git", llb.GitOptions{Ref: "v1", SubDir: "sub", KeepGitDir: true}, llb.Meta{}),
			"sha256:3956010268bdf99aefa57967ccde8e677c22808bb4b9e222152c00dbf3380f86",
		},
		"git bare": {
			llb.Git("github.com/moby/buildkit", llb.GitOptions{}, llb.Meta{}),
			"sha256:5bf868774005bdfa144af84035863c81a9d6b9f3689cedcfc95d160e3aa8640d",
		},
		"git ssh": {
			llb.Git("git@github.com:moby/buildkit.git", llb.GitOptions{Ref: "main", KnownSSHHosts: "github.com k\n"}, llb.Meta{}),
			"sha256:71f4cdea08bdd6543c2e9efe6803d42fc2b842f395dfa237a9ca41c3450e1de9",
		},
		"oci-layout": {
			llb.OCILayout("x@"+zero, llb.OCILayoutOptions{SessionID: "sess", StoreID: "store"}, llb.Meta{}),
			"sha256:dfb03b5effd3fb1f85e5ac43dbbfc95923af121b8261f7120868206710dbd894",
		},
		"exec":               {run.Root(), "sha256:9a7ba18106511f048b68badb8a2ca2d41d743e7369492fee26e1f22c02ec4f24"},
		"exec mounts":        {mounts.Root(), "sha256:44f5d20f140c13bcc2a83e3ed28a3f9edd3d4502d768ec3d83076581028bce1a"},
		"exec mount output":  {mountB, "sha256:44f5d20f140c13bcc2a83e3ed28a3f9edd3d4502d768ec3d83076581028bce1a"},
		"exec readonly root": {mountO, "sha256:803d644fd819c7fb7493758e32f3313deaa4fd3586c8eac75e2dc73b47705bbc"},
		"mkdir": {
			llb.File(llb.Output{}, []llb.FileAction{llb.Mkdir{Path: "/a/b", Mode: 0o755, Parents: true, Created: &created}}, llb.Meta{}),
			"sha256:fbf5565127ee8bfd36af445fe56e3f4f452cccb00800bbb1a63bcac05321573d",
		},
		"chain": {
			llb.File(img, []llb.FileAction{
				llb.Mkdir{Path: "d", Mode: 0o700, Owner: llb.ParseOwner("root:staff")},
				llb.Mkfile{Path: "/d/f", Mode: 0o644, Data: []byte("data"), Owner: llb.IDs(1, 2)},
				llb.Symlink{Old: "/d/f", New: "/l"},
				llb.Rm{Path: "/x*", AllowWildcard: true, AllowNotFound: true},
				llb.Copy{
					From: src, Src: "/s/../q", Dest: "/d/", Mode: llb.Mode{Bits: 0o600}, FollowSymlinks: true, ContentsOnly: true,
					Include: []string{"i"}, Exclude: []string{"e"}, RequiredPaths: []string{"i"}, AttemptUnpack: true, CreateDestPath: true,
					AllowWildcard: true, AllowEmptyWildcard: true, Owner: &llb.Owner{User: &llb.User{Name: "bob"}}, Created: &created, ReplaceExisting: true,
				},
			}, llb.Meta{}),
			"sha256:2663d268318bf8b859a13fc9a40b9fcb7c2969005724096bc02a5578adde4d2d",
		},
		"copy": {
			llb.File(img, []llb.FileAction{llb.Copy{From: src, Src: "/a", Dest: "/.", Mode: llb.KeepMode}}, llb.Meta{}),
			"sha256:364d5ec5c6e380fbd8babe3aae1b2acbcc03e304600da3768797e1686d084e08",
		},
		"copy modestr": {
			llb.File(llb.Output{}, []llb.FileAction{
				llb.Copy{From: src, Src: "a", Dest: "b/.", Mode: llb.Mode{Symbolic: "u+x"}},
				llb.Copy{From: img, Src: "/c", Dest: "/d", Mode: llb.KeepMode},
				llb.Copy{From: src, Src: "/e", Dest: "/f", Mode: llb.KeepMode},
			}, llb.Meta{}),
			"sha256:ea8c933a436df15f9230261fa525f1c647787a43801b0814b0856da14a09b5d0",
		},
		"copy self": {
			llb.File(img, []llb.FileAction{llb.Copy{From: img, Src: "/a", Dest: "/b", Mode: llb.KeepMode}}, llb.Meta{}),
			"sha256:59f304bbf0b318464491564ad36c9e2a3ef17520fb594052a49dd624f9be7312",
		},
		"merge":           {llb.Merge([]llb.Output{img, {}, src, img}, llb.Meta{}), "sha256:0ada7ebbc74e09280491194deb1f4d33fd22b95af67afd5aa0926837b5b3a130"},
		"diff":            {llb.Diff(img, run.Root(), llb.Meta{}), "sha256:edeed974d64d29dc75d1ec3bb64d9d67d1005deea7c8b046c8d3a6dd4471a794"},
		"diff to scratch": {llb.Diff(img, llb.Output{}, llb.Meta{}), "sha256:60264a9c6f9ec4afc0c3534b8f0e1eb65401af32f34cfb6d7653da540f4e50ab"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := llb.Digest(t.Context(), tt.out, amd)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			// What we write, we read.
			def, err := llb.Marshal(t.Context(), tt.out, amd)
			if err != nil {
				t.Fatal(err)
			}
			g, err := llb.Load(def, llb.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			if string(g.Root.Vertex.Digest) != tt.want {
				t.Errorf("loaded %s, want %s", g.Root.Vertex.Digest, tt.want)
			}
			if name == "exec mount output" && g.Root.Output != 1 {
				t.Errorf("/b is output %d, want 1", g.Root.Output)
			}
			again, err := llb.Marshal(t.Context(), g.Output(), arm)
			if err != nil {
				t.Fatal(err)
			}
			if len(again.Def) != len(def.Def) || string(again.Def[len(again.Def)-1]) != string(def.Def[len(def.Def)-1]) {
				t.Error("a loaded graph does not marshal to what it was loaded from")
			}
		})
	}
}
