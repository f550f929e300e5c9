package main

import (
	"fmt"

	"github.com/dbuild/dbuild/cmd/dbuild/internal/buildflags"
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
