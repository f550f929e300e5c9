package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"google.golang.org/grpc/status"
)

// Classes of failure, for errors.Is.
var (
	ErrInvalid     = errdefs.ErrInvalidArgument
	ErrNotFound    = errdefs.ErrNotFound
	ErrDenied      = errdefs.ErrPermissionDenied
	ErrUnreachable = errdefs.ErrUnavailable
	ErrCorrupt     = errdefs.ErrDataLoss
)

// An Error is a failed dealing with a registry, as one sentence that names the image,
// the registry and the cause.
type Error struct {
	Op    string // "pull", "push"
	Ref   string // image, or repository@digest
	Host  string // registry; "" if none was asked
	Class error  // one of the Err values; nil if none of them
	Cause string // what the registry, or the network, said
	Err   error  // the cause, for errors.As; may be nil
}

func (e *Error) Error() string {
	s := e.Op + " " + e.Ref + ": "
	switch {
	case e.Class == ErrNotFound:
		s += "not found in registry " + e.Host
	case e.Class == ErrDenied:
		s += "registry " + e.Host + " denied access"
	case e.Class == ErrUnreachable:
		s += "registry " + e.Host + " is unreachable"
	case e.Host == "":
		return s + e.Cause
	default:
		s += "registry " + e.Host
	}
	if e.Cause != "" {
		s += ": " + e.Cause
	}
	return s
}

// Unwrap gives the class and the cause.
func (e *Error) Unwrap() []error {
	var out []error
	if e.Class != nil {
		out = append(out, e.Class)
	}
	if e.Err != nil {
		out = append(out, e.Err)
	}
	return out
}

// Retryable reports whether the same may succeed later.
func (e *Error) Retryable() bool {
	var late *statusError
	var st remoteerrors.ErrUnexpectedStatus
	return e.Class == ErrUnreachable || errors.As(e.Err, &late) ||
		errors.As(e.Err, &st) && (st.StatusCode >= 500 || st.StatusCode == http.StatusTooManyRequests)
}

// explain turns what containerd, net/http or the registry say into an Error.
func explain(op, ref, host string, err error) error {
	if err == nil {
		return nil
	}
	var done *Error
	if errors.As(err, &done) || errors.Is(err, context.Canceled) {
		return err
	}
	e := &Error{Op: op, Ref: ref, Host: host, Err: err}
	var (
		st   remoteerrors.ErrUnexpectedStatus
		late *statusError
		deny *deniedError
		uerr *url.Error
		nerr net.Error
	)
	switch {
	case errors.As(err, &deny):
		e.Class, e.Cause = ErrDenied, deny.cause(op, host)
	case errors.As(err, &st):
		e.Class, e.Cause = classify(st.StatusCode), bodyMessage(st.Body)
		if secured(st.StatusCode, st.Body) {
			e.Cause = fmt.Sprintf(`it speaks HTTPS and not plain HTTP; take http = true out of the daemon's configuration, [registry.%q]`, host)
			break
		}
		if e.Class == ErrDenied {
			deny := &deniedError{text: e.Cause}
			e.Cause = deny.cause(op, host)
			break
		}
		if e.Class == nil || e.Cause == "" {
			e.Cause = join(fmt.Sprintf("it answered %d %s", st.StatusCode, http.StatusText(st.StatusCode)), e.Cause)
		}
	case errors.As(err, &late):
		e.Class, e.Cause = ErrUnreachable, late.cause()
		if late.status == http.StatusTooManyRequests {
			e.Class = nil
		}
	case errors.Is(err, docker.ErrInvalidAuthorization):
		e.Class, e.Cause = ErrDenied, (&deniedError{why: noLogin}).cause(op, host)
	case errdefs.IsNotFound(err):
		e.Class = ErrNotFound
	case errors.Is(err, errStalled):
		e.Class, e.Cause = ErrUnreachable, errStalled.Error()
	case errors.Is(err, errDropped), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		e.Class, e.Cause = ErrUnreachable, errDropped.Error()
	case unreachable(host, err) != "":
		e.Class, e.Cause = ErrUnreachable, unreachable(host, err)
	case errors.As(err, &uerr):
		e.Class, e.Cause = ErrUnreachable, uerr.Err.Error()
	case errors.As(err, &nerr):
		e.Class, e.Cause = ErrUnreachable, err.Error()
	default:
		e.Cause = err.Error()
		if s, ok := status.FromError(err); ok {
			e.Cause = s.Message()
		}
	}
	return e
}

// statusOf makes an Error of a response that is not what was hoped for.
func statusOf(op, ref, host string, resp *http.Response) error {
	return explain(op, ref, host, remoteerrors.NewUnexpectedStatusErr(resp))
}

func classify(status int) error {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return ErrDenied
	case http.StatusNotFound:
		return ErrNotFound
	}
	return nil
}

// serverMessage reads and closes the body of an error response.
func serverMessage(resp *http.Response) string {
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return ""
	}
	return bodyMessage(b)
}

// bodyMessage finds the words in an error body of the distribution protocol, or in the
// answer of a token server; see the OCI distribution specification, "Error Codes".
func bodyMessage(b []byte) string {
	var v struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
		Details string `json:"details"`
	}
	if json.Unmarshal(b, &v) != nil {
		return ""
	}
	var words []string
	for _, e := range v.Errors {
		if e.Message != "" {
			words = append(words, e.Message)
		} else if e.Code != "" {
			words = append(words, strings.ToLower(e.Code))
		}
	}
	if len(words) == 0 && v.Details != "" {
		words = append(words, v.Details)
	}
	return strings.Join(words, "; ")
}

func join(a, b string) string {
	if b == "" {
		return a
	}
	return a + ": " + b
}
