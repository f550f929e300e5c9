package objectstest

import (
	"context"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// What the servers accept.
const (
	KeyID  = "AKIDEXAMPLE"
	Secret = "c2VjcmV0LW9mLXRoZS1mYWtlLXN0b3Jl" // base64, which Azure wants
	Bucket = "caches"
	Region = "eu-test-1"
)

// NewS3 serves one bucket, in the style of paths.
func NewS3() *Server { return newServer((*Server).s3) }

func (s *Server) s3(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	q := r.URL.Query()
	switch {
	case !signed(r):
		s3Error(w, r, http.StatusForbidden, "SignatureDoesNotMatch")
	case bucket != Bucket:
		s3Error(w, r, http.StatusNotFound, "NoSuchBucket")
	case r.Method == http.MethodPost && q.Has("uploads"):
		answerXML(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", s.begin())
	case r.Method == http.MethodPost:
		var list struct {
			Part []struct{ PartNumber string }
		}
		var names []string
		err := xml.Unmarshal(body, &list)
		for _, p := range list.Part {
			names = append(names, p.PartNumber)
		}
		if err == nil {
			err = s.complete(q.Get("uploadId"), key, names)
		}
		if err != nil {
			s3Error(w, r, http.StatusBadRequest, "InvalidPart")
			return
		}
		answerXML(w, "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>")
	case r.Method == http.MethodDelete:
		_ = s.complete(q.Get("uploadId"), "", nil)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut:
		s.s3Put(w, r, key, body)
	default:
		o, ok := s.object(key)
		if !ok {
			s3Error(w, r, http.StatusNotFound, "NoSuchKey")
			return
		}
		serve(w, r, o)
	}
}

func (s *Server) s3Put(w http.ResponseWriter, r *http.Request, key string, body []byte) {
	q := r.URL.Query()
	if from, _ := url.PathUnescape(r.Header.Get("X-Amz-Copy-Source")); from != "" {
		o, ok := s.object(strings.TrimPrefix(from, Bucket+"/"))
		if !ok {
			s3Error(w, r, http.StatusNotFound, "NoSuchKey")
			return
		}
		body = o.data
		var first, last int
		if _, err := fmt.Sscanf(r.Header.Get("X-Amz-Copy-Source-Range"), "bytes=%d-%d", &first, &last); err == nil {
			body = body[first : last+1]
		}
	}
	w.Header().Set("ETag", `"e"`)
	if n := q.Get("partNumber"); n != "" {
		s.part(q.Get("uploadId"), n, body)
		answerXML(w, "<CopyPartResult><ETag>e</ETag></CopyPartResult>")
		return
	}
	s.store(key, body)
	answerXML(w, "<CopyObjectResult><ETag>e</ETag></CopyObjectResult>")
}

// signed reports whether the holder of the secret has signed the request.
func signed(r *http.Request) bool {
	got := r.Header.Get("Authorization")
	_, list, ok := strings.Cut(got, "SignedHeaders=")
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if !ok || err != nil {
		return false
	}
	list, _, _ = strings.Cut(list, ",")
	again := &http.Request{Method: r.Method, URL: &url.URL{Scheme: "http", Host: r.Host, Opaque: "//" + r.Host + r.URL.EscapedPath(), RawQuery: r.URL.RawQuery}, Host: r.Host, Header: http.Header{}, ContentLength: -1}
	for h := range strings.SplitSeq(list, ";") {
		switch h {
		case "host":
		case "content-length":
			again.ContentLength = r.ContentLength
		default:
			again.Header[http.CanonicalHeaderKey(h)] = r.Header.Values(h)
		}
	}
	creds := aws.Credentials{AccessKeyID: KeyID, SecretAccessKey: Secret, SessionToken: r.Header.Get("X-Amz-Security-Token")}
	err = v4.NewSigner().SignHTTP(context.Background(), creds, again, r.Header.Get("X-Amz-Content-Sha256"), "s3", Region, at,
		func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true })
	return err == nil && again.Header.Get("Authorization") == got
}

func s3Error(w http.ResponseWriter, r *http.Request, status int, code string) {
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>of the fake</Message></Error>", code)
	}
}

func answerXML(w http.ResponseWriter, format string, args ...any) {
	w.Header().Set("Content-Type", "application/xml")
	fmt.Fprintf(w, xml.Header+format, args...)
}
