package signature

import (
	"bytes"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
)

// Expiry says what to do about keys that have expired.
type Expiry int

const (
	AllowExpired  Expiry = iota // a signature counts if its key was good when it was made
	RejectExpired               // the key must be good now
)

const (
	maxKeys   = 64      // in one text
	minRSA    = 2048    // bits
	maxArmor  = 1 << 20 // bytes
	pgpMarker = "-----BEGIN PGP "
)

// OpenPGP checks that content has the armored detached signature sig, by one of the armored
// keys.
func OpenPGP(keys, sig string, content io.Reader, e Expiry) error {
	ring, err := keyRing(keys)
	if err != nil {
		return err
	}
	if err := openPGP(ring, sig, content, e); err != nil {
		return fmt.Errorf("failed to verify pgp signature: %w", err)
	}
	return nil
}

func openPGP(ring openpgp.EntityList, sig string, content io.Reader, e Expiry) error {
	if len(sig) > maxArmor {
		return fmt.Errorf("the signature has more than %d bytes", maxArmor)
	}
	block, err := armor.Decode(bytes.NewReader([]byte(sig)))
	if err != nil {
		return fmt.Errorf("failed to decode armored signature: %w", err)
	}
	body, err := io.ReadAll(io.LimitReader(block.Body, maxArmor))
	if err != nil {
		return fmt.Errorf("failed to read armored signature body: %w", err)
	}
	made, err := signatureOf(body)
	if err != nil {
		return err
	}
	if now := time.Now(); made.CreationTime.After(now.Add(5 * time.Minute)) {
		return fmt.Errorf("signature creation time is in the future: %v", made.CreationTime)
	}
	cfg := &packet.Config{MinRSABits: minRSA, RejectHashAlgorithms: map[crypto.Hash]bool{crypto.MD5: true, crypto.SHA1: true, crypto.RIPEMD160: true}}
	if e == AllowExpired {
		cfg.Time = func() time.Time { return made.CreationTime }
	}
	_, signer, err := openpgp.VerifyDetachedSignature(ring, content, bytes.NewReader(body), cfg)
	if err != nil {
		if made.IssuerKeyId != nil {
			err = fmt.Errorf("signature by %X: %w", *made.IssuerKeyId, err)
		}
		return err
	}
	return strong(signer)
}

// signatureOf is the first signature of those in b.
func signatureOf(b []byte) (*packet.Signature, error) {
	for r := packet.NewReader(bytes.NewReader(b)); ; {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil, errors.New("no signature packet found")
		}
		if err != nil {
			return nil, fmt.Errorf("failed to read next packet: %w", err)
		}
		if s, ok := p.(*packet.Signature); ok {
			return s, nil
		}
	}
}

// strong checks that the key of a signer is not revoked and not too short.
func strong(e *openpgp.Entity) error {
	if e == nil || e.PrimaryKey == nil {
		return errors.New("the key that signed is not known")
	}
	if len(e.Revocations) > 0 {
		return errors.New("key revoked")
	}
	if k, ok := e.PrimaryKey.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() < minRSA {
		return fmt.Errorf("RSA key too short: %d bits", k.N.BitLen())
	}
	return nil
}

// keyRing reads armored keys, one block after the other.
func keyRing(keys string) (openpgp.EntityList, error) {
	if len(keys) > maxArmor {
		return nil, fmt.Errorf("failed to read armored public key: it has more than %d bytes", maxArmor)
	}
	var all openpgp.EntityList
	rest := []byte(keys)
	for n := 0; ; n++ {
		i := bytes.Index(rest, []byte(pgpMarker))
		if i < 0 || n == maxKeys {
			break
		}
		rest = rest[i:]
		list, err := openpgp.ReadArmoredKeyRing(bytes.NewReader(rest))
		if err != nil {
			return nil, fmt.Errorf("failed to read armored public key: %w", err)
		}
		all = append(all, list...)
		rest = rest[len(pgpMarker):]
		// The marker at the end of a block does not begin another.
	}
	if len(all) == 0 {
		return nil, errors.New("failed to read armored public key: no armored data found")
	}
	return all, nil
}
