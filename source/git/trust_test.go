package git

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/internal/snapshot"
	"github.com/dbuild/dbuild/session"
	"github.com/hiddeco/sshsig"
	digest "github.com/opencontainers/go-digest"
	"golang.org/x/crypto/ssh"
)

// A signer signs as git's SSH format does.
type signer struct {
	ssh.Signer
	public string // as in authorized_keys
}

func newSigner(t *testing.T) signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer{s, string(ssh.MarshalAuthorizedKey(s.PublicKey()))}
}

func (s signer) sign(t *testing.T, content string) string {
	t.Helper()
	sig, err := sshsig.Sign(strings.NewReader(content), s, sshsig.HashSHA512, "git")
	if err != nil {
		t.Fatal(err)
	}
	return string(sshsig.Armor(sig))
}

// signedCommit replaces the commit of a branch by one that is signed.
func (r *repo) signedCommit(s signer, branch string) string {
	r.t.Helper()
	raw := r.in("cat-file", "commit", "HEAD") + "\n"
	head, message, _ := strings.Cut(raw, "\n\n")
	sig := strings.ReplaceAll(strings.TrimSuffix(s.sign(r.t, raw), "\n"), "\n", "\n ")
	id := r.object("commit", head+"\ngpgsig "+sig+"\n\n"+message)
	r.in("push", "-q", "-f", "origin", id+":refs/heads/"+branch)
	return id
}

// signedTag makes an annotated tag of an object that is signed.
func (r *repo) signedTag(s signer, name, commit string) string {
	r.t.Helper()
	raw := fmt.Sprintf("object %s\ntype commit\ntag %s\ntagger c <c@c> 1577934245 +0000\n\nmessage\n", commit, name)
	id := r.object("tag", raw+s.sign(r.t, raw))
	r.in("push", "-q", "-f", "origin", id+":refs/tags/"+name)
	return id
}

// object stores an object.
func (r *repo) object(kind, content string) string {
	r.t.Helper()
	name := filepath.Join(r.t.TempDir(), "object")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return r.in("hash-object", "-t", kind, "-w", name)
}

func TestSignatures(t *testing.T) {
	w, r := newWorld(t), newRepo(t)
	one, two := newSigner(t), newSigner(t)
	plain := r.commit("f", "1", "trunk")
	r.in("tag", "-a", "-m", "m", "unsigned", plain)
	r.in("push", "-q", "origin", "unsigned")
	commit := r.signedCommit(one, "signed")
	tag := r.signedTag(two, "v1", commit)
	r.signedTag(two, "v0", plain)
	pgp := "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nnothing\n"
	for name, tc := range map[string]struct {
		req  Request
		want string // error
	}{
		"commit":                   {req: Request{Ref: "signed", Keys: one.public}},
		"one key of two":           {req: Request{Ref: "signed", Keys: two.public + one.public}},
		"by id":                    {req: Request{Ref: commit, Keys: one.public}},
		"by somebody else":         {req: Request{Ref: "signed", Keys: two.public}, want: "failed to verify ssh signature"},
		"unsigned":                 {req: Request{Ref: "trunk", Keys: one.public}, want: "git object is not signed"},
		"unsigned tag":             {req: Request{Ref: "unsigned", Keys: one.public}, want: "git object is not signed"},
		"other kind of key":        {req: Request{Ref: "signed", Keys: pgp}, want: "failed to parse ssh public key"},
		"tag":                      {req: Request{Ref: "v1", Keys: two.public, RequireSignedTag: true}},
		"commit of a tag":          {req: Request{Ref: "v1", Keys: one.public}},
		"tag required":             {req: Request{Ref: "v1", Keys: one.public, RequireSignedTag: true}, want: "failed to verify ssh signature"},
		"tag ignored":              {req: Request{Ref: "v1", Keys: two.public, IgnoreSignedTag: true}, want: "failed to verify ssh signature"},
		"tag of unsigned commit":   {req: Request{Ref: "v0", Keys: two.public}},
		"tag required, but branch": {req: Request{Ref: "signed", Keys: one.public, RequireSignedTag: true}, want: "signed tag required but no signed tag found"},
		"tag required, unsigned":   {req: Request{Ref: "unsigned", Keys: one.public, RequireSignedTag: true}, want: "signed tag required but no signed tag found"},
	} {
		tc.req.Remote = r.url()
		p, err := w.src.Pin(t.Context(), nil, tc.req, nil)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: got %v, %v", name, p, err)
		}
	}
	p, err := w.src.Pin(t.Context(), nil, Request{Remote: r.url(), Ref: "v1"}, nil)
	if err != nil || p.Ref != "refs/tags/v1" || p.Object != tag || p.Commit != commit {
		t.Fatalf("got %+v, %v", p, err)
	}
	o, err := w.src.Objects(t.Context(), nil, p, nil)
	if err != nil || !bytes.HasPrefix(o.Tag, []byte("object "+commit)) || !bytes.Contains(o.Commit, []byte("\ngpgsig ")) {
		t.Errorf("got %s, %v", o, err)
	}
	p, err = w.src.Pin(t.Context(), nil, Request{Remote: r.url()}, nil)
	if err != nil || p.Ref != "refs/heads/trunk" || p.Object != p.Commit {
		t.Errorf("HEAD: %+v, %v", p, err)
	}
	if _, err := w.src.Pin(t.Context(), nil, Request{Remote: r.url(), Ref: "v1", Checksum: tag[:12]}, nil); err != nil {
		t.Errorf("the id of a tag object as checksum: %v", err)
	}
}

func TestBundle(t *testing.T) {
	w, r := newWorld(t), newRepo(t)
	r.commit("f", "1", "trunk")
	id := r.commit("f", "2", "trunk")
	p, files := w.get(Request{Remote: r.url(), Ref: "trunk", CheckoutBundle: true})
	if p.Commit != id || len(files) != 1 || files["bundle"] == "" {
		t.Fatalf("got %v of %v", len(files), p)
	}
	_, again := newWorld(t).get(Request{Remote: r.url(), Ref: "trunk", CheckoutBundle: true})
	if again["bundle"] != files["bundle"] {
		t.Error("another bundle of the same commit has other bytes")
	}

	opened := 0
	give := files["bundle"]
	w = newWorld(t)
	w.src.cfg.Bundle = func(context.Context, session.Group, Request) (Bundle, error) {
		opened++
		return Bundle{io.NopCloser(strings.NewReader(give)), digest.FromString(files["bundle"])}, nil
	}
	gone := Request{Remote: "https://gone.invalid/r", Bundle: "oci-layout+blob://x@" + digest.FromString(files["bundle"]).String(), Checksum: id}
	give = "something else"
	p, err := w.src.Pin(t.Context(), nil, gone, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.src.Fetch(t.Context(), nil, p, nil); err == nil || !strings.Contains(err.Error(), "digest mismatch") {
		t.Errorf("other bytes: %v", err)
	}
	give, opened = files["bundle"], 0
	for _, ref := range []string{"", id, "trunk"} {
		req := gone
		req.Ref = ref
		w.want(req, id, map[string]string{"f": "2"})
	}
	if opened != 1 {
		t.Errorf("opened %d times", opened)
	}
	keep := gone
	keep.Ref, keep.KeepGitDir = "trunk", true
	p, err = w.src.Pin(t.Context(), nil, keep, nil)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := w.src.Fetch(t.Context(), nil, p, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ref.Release()
	m, err := ref.Mount(t.Context(), snapshot.Access{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Unmount()
	if got := r.run("--git-dir="+filepath.Join(m.Root, ".git"), "for-each-ref", "--format=%(refname) %(objectname)"); got != "refs/heads/trunk "+id {
		t.Errorf("refs of the checkout: %s", got)
	}
	other := gone
	other.Checksum = strings.Repeat("1", 40)
	if p, err = w.src.Pin(t.Context(), nil, other, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := w.src.Fetch(t.Context(), nil, p, nil); err == nil || !strings.Contains(err.Error(), "has no commit") {
		t.Errorf("a commit that is not in the bundle: %v", err)
	}
}
