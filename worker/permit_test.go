package worker

import (
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

func TestPermits(t *testing.T) {
	none, all := LoadOptions{}, LoadOptions{HostNetwork: true, Insecure: true}
	for _, tt := range []struct {
		what string
		err  error
		is   func(error) bool
	}{
		{"default network", none.PermitNetwork(pb.NetMode_UNSET), nil},
		{"no network", none.PermitNetwork(pb.NetMode_NONE), nil},
		{"host network", none.PermitNetwork(pb.NetMode_HOST), cerrdefs.IsPermissionDenied},
		{"granted host network", all.PermitNetwork(pb.NetMode_HOST), nil},
		{"unknown network", all.PermitNetwork(99), cerrdefs.IsInvalidArgument},
		{"negative network", all.PermitNetwork(-1), cerrdefs.IsInvalidArgument},
		{"sandbox", none.PermitSecurity(pb.SecurityMode_SANDBOX), nil},
		{"insecure", none.PermitSecurity(pb.SecurityMode_INSECURE), cerrdefs.IsPermissionDenied},
		{"granted insecure", all.PermitSecurity(pb.SecurityMode_INSECURE), nil},
		{"unknown security", all.PermitSecurity(2), cerrdefs.IsInvalidArgument},
		{"negative security", all.PermitSecurity(-1), cerrdefs.IsInvalidArgument},
	} {
		if tt.is == nil && tt.err != nil || tt.is != nil && !tt.is(tt.err) {
			t.Errorf("%s: got %v", tt.what, tt.err)
		}
	}
}
