package signature_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/dbuild/dbuild/internal/signature"
)

// A key makes OpenPGP signatures.
type key struct {
	*openpgp.Entity
	public string
}

func newKey(t *testing.T, cfg packet.Config) key {
	t.Helper()
	if cfg.Algorithm == 0 {
		cfg.Algorithm = packet.PubKeyAlgoEdDSA
	}
	e, err := openpgp.NewEntity("somebody", "", "s@x", &cfg)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Serialize(w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	return key{e, b.String() + "\n"}
}

func (k key) sign(t *testing.T, content string, cfg packet.Config) string {
	t.Helper()
	var b bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&b, k.Entity, strings.NewReader(content), &cfg); err != nil {
		t.Fatal(err)
	}
	return b.String() + "\n"
}

func TestOpenPGP(t *testing.T) {
	at := func(d time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(d) } }
	good, other := newKey(t, packet.Config{}), newKey(t, packet.Config{})
	expired := newKey(t, packet.Config{Time: at(-48 * time.Hour), KeyLifetimeSecs: 24 * 3600})
	yesterday := packet.Config{Time: at(-36 * time.Hour)}
	const text = "content"
	sig := good.sign(t, text, packet.Config{})
	for name, tc := range map[string]struct {
		keys, sig, content string
		expiry             signature.Expiry
		want               string // error
	}{
		"good":              {keys: good.public, sig: sig},
		"second of two":     {keys: other.public + "\n" + good.public, sig: sig},
		"first of two":      {keys: good.public + other.public, sig: sig},
		"by somebody else":  {keys: other.public, sig: sig, want: "failed to verify pgp signature: signature by "},
		"of something else": {keys: good.public, sig: sig, content: "other", want: "failed to verify pgp signature"},
		"no key":            {sig: sig, want: "failed to read armored public key"},
		"half a key":        {keys: good.public[:200], sig: sig, want: "failed to read armored public key"},
		"no signature":      {keys: good.public, want: "failed to decode armored signature"},
		"key as signature":  {keys: good.public, sig: good.public, want: "failed to verify pgp signature"},
		"from the future":   {keys: good.public, sig: good.sign(t, text, packet.Config{Time: at(time.Hour)}), want: "in the future"},
		"expired since":     {keys: expired.public, sig: expired.sign(t, text, yesterday)},
		"expired":           {keys: expired.public, sig: expired.sign(t, text, yesterday), expiry: signature.RejectExpired, want: "expired"},
	} {
		if tc.content == "" {
			tc.content = text
		}
		err := signature.OpenPGP(tc.keys, tc.sig, strings.NewReader(tc.content), tc.expiry)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestShortKeys(t *testing.T) {
	short := newKey(t, packet.Config{Algorithm: packet.PubKeyAlgoRSA, RSABits: 1024, MinRSABits: 1024})
	err := signature.OpenPGP(short.public, short.sign(t, "x", packet.Config{MinRSABits: 1024}), strings.NewReader("x"), signature.AllowExpired)
	if err == nil {
		t.Error("a key of 1024 bits was good enough")
	}
}

// Git's objects hold their signature: commits in a header, tags at the end.
func TestObjects(t *testing.T) {
	k, other := newKey(t, packet.Config{}), newKey(t, packet.Config{})
	const head, message = "tree 1\nauthor a <a@a> 1 +0000\ncommitter c <c@c> 1 +0000\n", "\nmessage\ngpgsig is just a word here\n"
	sig := strings.TrimSuffix(k.sign(t, head+message, packet.Config{}), "\n")
	commit := head + "gpgsig " + strings.ReplaceAll(sig, "\n", "\n ") + "\n" + message
	tag := "object 1\ntype commit\ntag v\ntagger c <c@c> 1 +0000\n\nmessage\n"
	signedTag := tag + k.sign(t, tag, packet.Config{})
	for name, tc := range map[string]struct {
		check  func([]byte, string, signature.Expiry) error
		object string
		keys   string
		want   string
	}{
		"commit":           {check: signature.Commit, object: commit, keys: k.public},
		"commit, other":    {check: signature.Commit, object: commit, keys: other.public, want: "signature by"},
		"changed commit":   {check: signature.Commit, object: strings.Replace(commit, "message", "massage", 1), keys: k.public, want: "signature by"},
		"unsigned commit":  {check: signature.Commit, object: head + message, keys: k.public, want: "not signed"},
		"ssh key for pgp":  {check: signature.Commit, object: commit, keys: "ssh-ed25519 AAAA", want: "failed to read armored public key"},
		"tag":              {check: signature.Tag, object: signedTag, keys: k.public},
		"changed tag":      {check: signature.Tag, object: strings.Replace(signedTag, "tag v", "tag w", 1), keys: k.public, want: "signature by"},
		"unsigned tag":     {check: signature.Tag, object: tag, keys: k.public, want: "not signed"},
		"nothing":          {check: signature.Tag, keys: k.public, want: "not signed"},
		"damaged ssh sig":  {check: signature.Tag, object: tag + "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----\n", keys: k.public, want: "ssh signature"},
		"only a beginning": {check: signature.Commit, object: "gpg", keys: k.public, want: "not signed"},
	} {
		err := tc.check([]byte(tc.object), tc.keys, signature.AllowExpired)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if !signature.Signed([]byte(signedTag)) || signature.Signed([]byte(tag)) {
		t.Error("a tag does not say whether it is signed")
	}
}

func FuzzSignatures(f *testing.F) {
	f.Add("tree 1\ngpgsig -----BEGIN SSH SIGNATURE-----\n U1NIU0lH\n -----END SSH SIGNATURE-----\n\nm\n", "ssh-ed25519 AAAA", "-----BEGIN PGP SIGNATURE-----\n\nwsA=\n-----END PGP SIGNATURE-----\n")
	f.Add("object 1\n\n-----BEGIN PGP SIGNATURE-----\n\nwsA=\n-----END PGP SIGNATURE-----\n", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxsA=\n-----END PGP PUBLIC KEY BLOCK-----\n", "")
	f.Fuzz(func(t *testing.T, object, keys, sig string) {
		for _, err := range []error{
			signature.Commit([]byte(object), keys, signature.AllowExpired), signature.Tag([]byte(object), keys, signature.RejectExpired),
			signature.OpenPGP(keys, sig, strings.NewReader(object), signature.AllowExpired),
		} {
			if err == nil {
				t.Fatal("what nobody signed was accepted")
			}
		}
	})
}
