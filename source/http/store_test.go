package http

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/dbuild/dbuild/internal/snapshot"
	digest "github.com/opencontainers/go-digest"
)

// A server may compress the file for the way; its digest is that of the file.
func TestCompressedOnTheWay(t *testing.T) {
	w := newWorld(t)
	lie := false
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "gzip" {
			t.Errorf("accepts %q", r.Header.Get("Accept-Encoding"))
		}
		rw.Header().Set("Content-Encoding", "gzip")
		if lie {
			_, _ = io.WriteString(rw, "hello")
			return
		}
		z := gzip.NewWriter(rw)
		_, _ = io.WriteString(z, "hello")
		z.Close()
	}))
	t.Cleanup(s.Close)
	req := Request{URL: s.URL + "/f", Checksum: digest.FromString("hello")}
	if _, content, _ := w.get(req); content != "hello" {
		t.Errorf("got %q", content)
	}
	lie = true
	if _, err := w.src.Pin(t.Context(), nil, Request{URL: s.URL + "/g"}, nil); err == nil || !strings.Contains(err.Error(), "said to be compressed") {
		t.Errorf("got %v", err)
	}
}

func TestSignedDownload(t *testing.T) {
	w, s := newWorld(t), newServer(t)
	s.etag = "1"
	public, sig := sign(t, s.content)
	other, _ := sign(t, s.content)
	req := Request{URL: s.URL + "/f", PubKey: public, Signature: sig}
	w.get(req)
	w.get(req) // from what is here
	for name, req := range map[string]Request{
		"by somebody else":       {URL: s.URL + "/f", PubKey: other, Signature: sig},
		"known, by its checksum": {URL: s.URL + "/f", PubKey: other, Signature: sig, Checksum: digest.FromString(s.content)},
		"unknown":                {URL: s.URL + "/g", PubKey: other, Signature: sig},
	} {
		if _, err := w.src.Pin(t.Context(), nil, req, nil); err == nil || !strings.Contains(err.Error(), "failed to verify pgp signature") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func sign(t *testing.T, content string) (public, sig string) {
	t.Helper()
	e, err := openpgp.NewEntity("somebody", "", "", &packet.Config{Algorithm: packet.PubKeyAlgoEdDSA})
	if err != nil {
		t.Fatal(err)
	}
	var key, b bytes.Buffer
	z, err := armor.Encode(&key, openpgp.PublicKeyType, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(e.Serialize(z), z.Close(), openpgp.ArmoredDetachSign(&b, e, strings.NewReader(content), nil)); err != nil {
		t.Fatal(err)
	}
	return key.String(), b.String()
}

func TestCopy(t *testing.T) {
	w, s := newWorld(t), newServer(t)
	p, err := w.src.Pin(t.Context(), nil, Request{URL: s.URL + "/f", Checksum: digest.FromString("hello")}, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := sha512.New()
	if err := w.src.Copy(t.Context(), nil, p, h, nil); err != nil || fmt.Sprintf("%x", h.Sum(nil)) != digest.SHA512.FromString("hello").Encoded() {
		t.Errorf("got %x, %v", h.Sum(nil), err)
	}
}

func TestBlob(t *testing.T) {
	w := newWorld(t)
	opened, give := 0, "else"
	b := Blob{File: File{Mode: 0o640, UID: 5}, Digest: digest.FromString("hello"), From: "a test", Open: func(context.Context) (io.ReadCloser, int64, error) {
		opened++
		return io.NopCloser(strings.NewReader(give)), int64(len(give)), nil
	}}
	if _, err := w.src.Blob(t.Context(), b, nil); err == nil || !strings.Contains(err.Error(), "digest mismatch") {
		t.Errorf("other bytes: %v", err)
	}
	give, opened = "hello", 0
	for range 2 {
		ref, err := w.src.Blob(t.Context(), b, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ref.Release()
		v, err := ref.View(t.Context(), snapshot.Access{})
		if err != nil {
			t.Fatal(err)
		}
		st, err := v.Lstat(b.Digest.Encoded())
		if err != nil || st.Uid != 5 || st.Mode&0o777 != 0o640 || st.Size != 5 {
			t.Errorf("got %v, %v", st, err)
		}
	}
	if opened != 1 {
		t.Errorf("opened %d times", opened)
	}
}
