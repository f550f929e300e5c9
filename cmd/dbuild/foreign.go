package main

import (
	"fmt"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
	"golang.org/x/mod/semver"
)

// adaptOutputs takes from the outputs what a daemon that is not dbuild's would pass over in
// silence, or refuses it if the image would be another.
func (a *app) adaptOutputs(d *daemonConn, req *buildflags.Request) error {
	if d.ours() {
		return nil
	}
	for _, e := range req.Exports {
		if e.Attrs["squash"] != "" {
			return fmt.Errorf("--squash: this daemon (%s) cannot make one layer of several", d.info.Package)
		}
		switch e.Attrs["attestation-attach"] {
		case "none":
			return fmt.Errorf("--attest attach=none: this daemon (%s) has attestations in every image of such a build", d.info.Package)
		case "referrers":
			a.warn("attestations become part of the image: this daemon (%s) cannot attach them as referrers", d.info.Package)
		}
		delete(e.Attrs, "attestation-attach")
	}
	return nil
}

// proxySince is the first BuildKit that has a proxy network.
const proxySince = "v0.31.0"

// checkProxyNetwork refuses daemons that would give steps the network without a proxy, and not
// say so. One that does not say its version is believed to be new.
func checkProxyNetwork(d *daemonConn, req *buildflags.Request) error {
	if !req.ProxyNetwork || d.ours() || !semver.IsValid(d.info.Version) || semver.Compare(d.info.Version, proxySince) >= 0 {
		return nil
	}
	return fmt.Errorf("--proxy-network: this daemon (%s %s) has none; BuildKit has it since %s", d.info.Package, d.info.Version, proxySince)
}
