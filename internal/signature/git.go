package signature

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// ErrUnsigned says that a commit or tag has no signature.
var ErrUnsigned = errors.New("git object is not signed")

const sshMarker = "-----BEGIN SSH SIGNATURE-----"

// Commit checks the signature in a commit, as git cat-file prints it, by one of the keys:
// armored OpenPGP keys, or lines as in authorized_keys, as the signature needs.
func Commit(object []byte, keys string, e Expiry) error {
	signed, sig := splitCommit(object)
	return verify(signed, sig, keys, e)
}

// Tag checks the signature in a tag object, as Commit does.
func Tag(object []byte, keys string, e Expiry) error {
	signed, sig := splitTag(object)
	return verify(signed, sig, keys, e)
}

// Signed reports whether a tag object has a signature.
func Signed(tag []byte) bool {
	_, sig := splitTag(tag)
	return sig != ""
}

func verify(signed []byte, sig, keys string, e Expiry) error {
	switch {
	case sig == "":
		return ErrUnsigned
	case strings.HasPrefix(sig, sshMarker):
		return verifySSH(signed, sig, keys)
	}
	ring, err := keyRing(keys)
	if err != nil {
		return err
	}
	return openPGP(ring, sig, bytes.NewReader(signed), e)
}

// splitCommit takes the header with the signature out of a commit.
func splitCommit(object []byte) (signed []byte, sig string) {
	var out bytes.Buffer
	var lines []string
	inside, taken := false, false
	rest := object
	for len(rest) > 0 {
		line := rest
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			line = rest[:i+1]
		}
		rest = rest[len(line):]
		text := strings.TrimSuffix(string(line), "\n")
		if text == "" { // the message follows
			out.Write(line)
			out.Write(rest)
			break
		}
		if inside {
			if more, ok := strings.CutPrefix(text, " "); ok {
				lines = append(lines, more)
				continue
			}
			inside = false
		}
		name, value, _ := strings.Cut(text, " ")
		if (name == "gpgsig" || name == "gpgsig-sha256") && !taken {
			inside, taken = true, true
			lines = append(lines, value)
			continue
		}
		out.Write(line)
	}
	if !taken {
		return object, ""
	}
	return out.Bytes(), strings.Join(lines, "\n") + "\n"
}

// splitTag cuts a tag object where its signature begins.
func splitTag(object []byte) (signed []byte, sig string) {
	at := -1
	for _, marker := range []string{"-----BEGIN PGP SIGNATURE-----", "-----BEGIN PGP MESSAGE-----", sshMarker} {
		i := bytes.LastIndex(object, []byte("\n"+marker))
		at = max(at, i)
	}
	if at < 0 {
		return object, ""
	}
	return object[:at+1], string(object[at+1:])
}

// verifySSH checks a signature by one of the keys in lines as in authorized_keys.
func verifySSH(signed []byte, armored, keys string) error {
	sig, err := sshsig.Unarmor([]byte(armored))
	if err != nil {
		return fmt.Errorf("failed to parse ssh signature: %w", err)
	}
	if sig.Namespace != "git" {
		return fmt.Errorf("unexpected SSH signature namespace: %q", sig.Namespace)
	}
	if err := sig.HashAlgorithm.Supported(); err != nil {
		return fmt.Errorf("unsupported SSH signature hash algorithm: %w", err)
	}
	rest := []byte(keys)
	var last error
	for n := 0; n < maxKeys && len(bytes.TrimSpace(rest)) > 0; n++ {
		key, _, _, more, err := ssh.ParseAuthorizedKey(rest)
		if err != nil {
			if last != nil {
				break
			}
			return fmt.Errorf("failed to parse ssh public key: %w", err)
		}
		rest = more
		if last = sshsig.Verify(bytes.NewReader(signed), sig, key, sig.HashAlgorithm, "git"); last == nil {
			return nil
		}
	}
	if last == nil {
		return errors.New("failed to parse ssh public key: there is none")
	}
	return fmt.Errorf("failed to verify ssh signature: %w", last)
}
