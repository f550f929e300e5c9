package lockfile

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	spb "github.com/moby/buildkit/sourcepolicy/pb"
	"github.com/moby/buildkit/sourcepolicy/policysession"
)

const (
	digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	sha    = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	tag    = "cccccccccccccccccccccccccccccccccccccccc"
)

// answer is what a daemon knows of a source.
func answer(op *pb.SourceOp) *gwpb.ResolveSourceMetaResponse {
	out := &gwpb.ResolveSourceMetaResponse{Source: op}
	switch scheme, _, _ := strings.Cut(op.Identifier, "://"); scheme {
	case "docker-image":
		out.Image = &gwpb.ResolveSourceImageResponse{Digest: digest}
	case "git":
		out.Git = &gwpb.ResolveSourceGitResponse{Checksum: sha}
		if strings.Contains(op.Identifier, "#v1") {
			out.Git = &gwpb.ResolveSourceGitResponse{Checksum: tag, CommitChecksum: sha}
		}
	default:
		out.HTTP = &gwpb.ResolveSourceHTTPResponse{Checksum: digest}
	}
	return out
}

// ask plays the daemon: it asks until s has decided, and returns what became of the source,
// or nil if it is refused.
func ask(t *testing.T, s *Session, op *pb.SourceOp) *pb.SourceOp {
	t.Helper()
	known := &gwpb.ResolveSourceMetaResponse{Source: op}
	for range 4 {
		decision, request, err := s.decide(context.Background(), &policysession.CheckPolicyRequest{Source: known})
		switch {
		case err != nil:
			t.Fatal(err)
		case request != nil:
			known = answer(op)
		case decision.Action == spb.PolicyAction_ALLOW:
			return op
		case decision.Action == spb.PolicyAction_DENY:
			return nil
		default:
			op = decision.Update
			known = &gwpb.ResolveSourceMetaResponse{Source: op}
		}
	}
	t.Fatalf("%s: no decision", op.Identifier)
	return nil
}

func TestPins(t *testing.T) {
	for name, tc := range map[string]struct {
		id    string
		attrs map[string]string
		want  string            // identifier; "" is as it was
		more  map[string]string // attributes
		lock  string            // name in the lock; "" is id
	}{
		"image":                 {id: "docker-image://docker.io/library/a:1", want: "docker-image://docker.io/library/a:1@" + digest},
		"image with a digest":   {id: "docker-image://docker.io/library/a@" + digest, lock: "none"},
		"branch":                {id: "git://h/r.git#main", want: "git://h/r.git#" + sha},
		"default branch":        {id: "git://h/r.git", want: "git://h/r.git#" + sha},
		"directory":             {id: "git://h/r.git#main:a/b", want: "git://h/r.git#" + sha + ":a/b"},
		"annotated tag":         {id: "git://h/r.git#v1", want: "git://h/r.git#" + sha},
		"signed":                {id: "git://h/r.git#v1", attrs: map[string]string{pb.AttrGitSignatureVerifyPubKey: "k"}, more: map[string]string{pb.AttrGitChecksum: sha}},
		"commit":                {id: "git://h/r.git#" + sha, lock: "none"},
		"git checksum":          {id: "git://h/r.git#main", attrs: map[string]string{pb.AttrGitChecksum: sha}, lock: "none"},
		"download":              {id: "https://h/f?x=1", attrs: map[string]string{"http.filename": "f"}, more: map[string]string{pb.AttrHTTPChecksum: digest}},
		"download of a user":    {id: "https://me:secret@h/f", more: map[string]string{pb.AttrHTTPChecksum: digest}, lock: "https://*@h/f"},
		"download and checksum": {id: "https://h/f", attrs: map[string]string{pb.AttrHTTPChecksum: digest}, lock: "none"},
		"from the client":       {id: "http://buildkit-session/x", lock: "none"},
		"local":                 {id: "local://context", lock: "none"},
	} {
		t.Run(name, func(t *testing.T) {
			s := Extend(New())
			op := &pb.SourceOp{Identifier: tc.id, Attrs: tc.attrs}
			got := ask(t, s, op)
			if tc.want == "" {
				tc.want = tc.id
			}
			if got.Identifier != tc.want {
				t.Errorf("it becomes %s, want %s", got.Identifier, tc.want)
			}
			for _, want := range []map[string]string{tc.attrs, tc.more} {
				for k, v := range want {
					if got.Attrs[k] != v {
						t.Errorf("%s is %q, want %q", k, got.Attrs[k], v)
					}
				}
			}
			var names []string
			if tc.lock == "" {
				tc.lock = tc.id
			}
			if tc.lock != "none" {
				names = []string{tc.lock}
			}
			f := s.File()
			if !slices.Equal(f.Names(), names) {
				t.Errorf("the lock names %q, want %q", f.Names(), names)
			}
			text, err := f.JSON()
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(string(text), "secret") {
				t.Errorf("a password is in the lock: %s", text)
			}
			again, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			if got := ask(t, Enforce(again, "no"), op); got == nil || got.Identifier != tc.want {
				t.Errorf("locked it becomes %v, want %s", got, tc.want)
			}
			if len(names) > 0 && ask(t, Enforce(New(), "no"), op) != nil {
				t.Error("an empty lock permits it")
			}
		})
	}
}

func TestTextIsStable(t *testing.T) {
	ids := []string{"https://h/b", "docker-image://docker.io/library/b:1", "git://h/r#main", "https://h/a$b"}
	var texts []string
	for range 2 {
		s := Extend(New())
		for _, id := range ids {
			ask(t, s, &pb.SourceOp{Identifier: id})
		}
		slices.Reverse(ids)
		text, err := s.File().JSON()
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, string(text))
	}
	if texts[0] != texts[1] {
		t.Errorf("the order of the questions shows:\n%s\n%s", texts[0], texts[1])
	}
	var doc struct{ Rules []json.RawMessage }
	if err := json.Unmarshal([]byte(texts[0]), &doc); err != nil || len(doc.Rules) != len(ids) {
		t.Errorf("%d rules, %v", len(doc.Rules), err)
	}
}

func TestMatch(t *testing.T) {
	s := Extend(New())
	for _, id := range []string{"docker-image://docker.io/library/alpine:3", "docker-image://r:5000/x/alpine:3", "git://github.com/a/b.git#main", "https://h/f"} {
		ask(t, s, &pb.SourceOp{Identifier: id})
	}
	for pattern, want := range map[string]int{
		"alpine": 1, "alpine:3": 1, "*alpine*": 2, "docker.io/library/alpine": 1, "r:5000/*": 1, "r:5000/x/alpine": 1,
		"https://github.com/a/b.git": 1, "github.com/a/b.git#main": 1, "https://h/f": 1, "*": 4, "docker-image://*": 2,
	} {
		got, err := s.File().Match(pattern)
		if err != nil || len(got) != want {
			t.Errorf("%s: %q, %v, want %d", pattern, got, err, want)
		}
	}
	for _, pattern := range []string{"alpin", "alpine:4", "h", "."} {
		if got, err := s.File().Match(pattern); err == nil || !strings.Contains(err.Error(), "the lock has alpine:3, r:5000/x/alpine:3") {
			t.Errorf("%s: %q, %v", pattern, got, err)
		}
	}
}

func TestNoLock(t *testing.T) {
	convert := `{"rules":[{"action":"CONVERT","selector":{"identifier":"%"},"updates":{"identifier":"#"}}]}`
	rule := func(from, to string) string {
		return strings.NewReplacer("%", from, "#", to).Replace(convert)
	}
	for text, want := range map[string]string{
		"": "unexpected end", "[]": "cannot", `{"version":2}`: "version 2",
		`{"rules":[null]}`: "rule 1 is no", `{"rules":[{"action":"DENY","selector":{"identifier":"x"}}]}`: "no conversion",
		`{"rules":[{"action":"CONVERT","selector":{"identifier":"x"}}]}`: "what becomes of what",
		rule("docker-image://a", "docker-image://b"):                     "pins docker-image://a to nothing",
		rule("git://a", "git://a#main"):                                  "pins git://a to nothing",
		rule("https://a", "https://a"):                                   "pins https://a to nothing",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestChanges(t *testing.T) {
	old, err := Parse([]byte(`{"rules":[
		{"action":"CONVERT","selector":{"identifier":"https://me@gone/"},"updates":{"identifier":"https://gone/","attrs":{"http.checksum":"sha256:1"}}},
		{"action":"CONVERT","selector":{"identifier":"git://h/r#main"},"updates":{"identifier":"git://h/r#` + tag + `"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	s := Extend(New())
	ask(t, s, &pb.SourceOp{Identifier: "git://h/r#main"})
	ask(t, s, &pb.SourceOp{Identifier: "docker-image://docker.io/library/a:1"})
	got := strings.Join(s.File().Changes(old), "\n")
	if want := "added a:1: " + digest + "\nchanged git://h/r#main: " + sha + ", was " + tag + "\nremoved https://gone/"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
