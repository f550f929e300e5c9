package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"github.com/moby/buildkit/client"
)

func TestOutputsOfOtherDaemons(t *testing.T) {
	other := &daemonConn{info: client.BuildkitVersion{Package: "github.com/moby/buildkit"}}
	ours := &daemonConn{info: client.BuildkitVersion{Package: daemonPackage}}
	for _, tc := range []struct {
		key, value   string
		fails, warns string
	}{
		{"squash", "true", "cannot make one layer", ""},
		{"attestation-attach", "none", "attach=none", ""},
		{"attestation-attach", "index", "", ""},
		{"attestation-attach", "referrers", "", "cannot attach them"},
	} {
		var stderr bytes.Buffer
		a := &app{stderr: &stderr}
		attrs := map[string]string{tc.key: tc.value}
		req := &buildflags.Request{Exports: []buildflags.Export{{Type: "image", Attrs: attrs}}}
		if err := a.adaptOutputs(ours, req); err != nil || len(attrs) != 1 || stderr.Len() > 0 {
			t.Errorf("%s=%s, ours: %v %v %q", tc.key, tc.value, err, attrs, stderr.String())
		}
		err := a.adaptOutputs(other, req)
		if tc.fails != "" {
			if err == nil || !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("%s=%s: %v", tc.key, tc.value, err)
			}
			continue
		}
		if err != nil || len(attrs) != 0 || (tc.warns == "") != (stderr.Len() == 0) || !strings.Contains(stderr.String(), tc.warns) {
			t.Errorf("%s=%s: %v %v %q", tc.key, tc.value, err, attrs, stderr.String())
		}
	}
}

func TestProxyNetworkOfOtherDaemons(t *testing.T) {
	for _, tc := range []struct {
		pkg, version string
		asked, fails bool
	}{
		{daemonPackage, "v0.0.1", true, false},
		{"github.com/moby/buildkit", "v0.30.2", true, true},
		{"github.com/moby/buildkit", "v0.30.2", false, false},
		{"github.com/moby/buildkit", "v0.31.0", true, false},
		{"github.com/moby/buildkit", "v0.34.1-rc1", true, false},
		{"github.com/moby/buildkit", "0.0.0+unknown", true, false},
	} {
		d := &daemonConn{info: client.BuildkitVersion{Package: tc.pkg, Version: tc.version}}
		err := checkProxyNetwork(d, &buildflags.Request{ProxyNetwork: tc.asked})
		if (err != nil) != tc.fails {
			t.Errorf("%s %s: %v", tc.pkg, tc.version, err)
		}
	}
}
