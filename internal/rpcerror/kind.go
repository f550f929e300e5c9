package rpcerror

import (
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// domain is that of our google.rpc.ErrorInfo; its reason is a Class.
const domain = "dbuild"

// A Class says whose trouble an error is, so that a program can decide what to do.
type Class string

// Classes of errors. Each but Step has an exit code of its own (docs/exit-codes.md).
const (
	Step      Class = "step"      // a command of the Dockerfile failed
	Config    Class = "config"    // the Dockerfile, the context or the request is wrong
	Network   Class = "network"   // a registry or another server did not give what was asked for
	Policy    Class = "policy"    // somebody does not allow it
	Internal  Class = "internal"  // a fault of the daemon
	Resources Class = "resources" // out of disk or memory
	Canceled  Class = "canceled"
	Other     Class = "other"
)

// A Kind is what programs want to know about an error beside its code.
type Kind struct {
	Class Class
	// Retryable says that the same build may succeed later.
	Retryable bool
}

// Info is a kind as clients decode it, a google.rpc.ErrorInfo.
func (k Kind) Info() *anypb.Any {
	info := &errdetails.ErrorInfo{Reason: string(k.Class), Domain: domain}
	if k.Retryable {
		info.Metadata = map[string]string{"retryable": "true"}
	}
	a, err := anypb.New(info)
	if err != nil { // a message of strings can be encoded
		return nil
	}
	return a
}

// KindOf is the kind that came with an error over gRPC, if one did.
func KindOf(err error) (Kind, bool) {
	var st interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &st) {
		return Kind{}, false
	}
	for _, d := range st.GRPCStatus().Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == domain {
			return Kind{Class: Class(info.GetReason()), Retryable: info.GetMetadata()["retryable"] == "true"}, true
		}
	}
	return Kind{}, false
}
