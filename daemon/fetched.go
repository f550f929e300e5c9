package daemon

import (
	"fmt"
	"strings"

	"github.com/dbuild/dbuild/attest/provenance"
	"github.com/dbuild/dbuild/worker"
	"github.com/dbuild/dbuild/worker/runc"
	"github.com/dbuild/dbuild/worker/runc/proxy"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// proxy is what containers of frontends have of the network: nil if they use it themselves.
func (b *build) proxy() *runc.Proxy {
	if !b.load.Proxied {
		return nil
	}
	record := new(proxy.Record)
	b.mu.Lock()
	b.fetched = append(b.fetched, record)
	b.mu.Unlock()
	return &runc.Proxy{Record: record, Judge: worker.JudgeRequests(b.JudgeSource)}
}

// fetchedByContainers is what containers of frontends fetched.
func (b *build) fetchedByContainers() (out provenance.Used) {
	b.mu.Lock()
	records := b.fetched
	b.mu.Unlock()
	for _, r := range records {
		list, more := r.Fetches()
		addFetches(&out, provenance.Unseen{Name: "container"}, list, more)
	}
	return out
}

// fetched is what the steps of r fetched, if their network is a proxy. It is kept with their
// results: most of them were found.
func (r *ref) fetched() (out provenance.Used) {
	if !r.b.load.Proxied || r.empty {
		return out
	}
	vertices := solverVertices(r.edge)
	for _, v := range r.graph.Vertices {
		exec := v.Op.GetExec()
		if exec == nil || exec.Network == pb.NetMode_NONE {
			continue
		}
		out.Proxied = true
		step := provenance.Unseen{Op: v.Digest.String(), Name: strings.Join(exec.Meta.GetArgs(), " ")}
		fetched := r.b.noteFor(vertices[v.Digest]).Fetched
		if fetched == nil {
			step.Reason = proxy.ReasonNotRecorded
			out.Unseen = append(out.Unseen, step)
			continue
		}
		addFetches(&out, step, fetched.List, fetched.More)
	}
	return out
}

// addFetches adds what a step fetched: whole files are materials. An address that led to one
// by way of others is the same material.
func addFetches(out *provenance.Used, step provenance.Unseen, list []proxy.Fetch, more int) {
	whole := map[string]digest.Digest{}
	leads := map[string]string{}
	for _, f := range list {
		switch {
		case f.Denied:
			continue
		case f.Reason != "":
			u := step
			u.Method, u.URI, u.Reason = f.Method, f.URL, f.Reason
			out.Unseen = append(out.Unseen, u)
			continue
		case f.Redirect != "":
			leads[f.URL] = f.Redirect
			continue
		case f.Status < 200 || f.Status > 299:
			continue // such as "not modified"
		}
		whole[f.URL] = f.Digest
		out.Materials = append(out.Materials, fetchedMaterial(f.URL, f.Digest))
	}
	for from := range leads {
		to, n := from, 0
		for ; leads[to] != "" && n <= len(leads); n++ {
			to = leads[to]
		}
		if d := whole[to]; d != "" && whole[from] == "" {
			out.Materials = append(out.Materials, fetchedMaterial(from, d))
		}
	}
	if more > 0 {
		u := step
		u.Reason = fmt.Sprintf("%s: %d are not recorded", proxy.ReasonTooMany, more)
		out.Unseen = append(out.Unseen, u)
	}
}

func fetchedMaterial(url string, d digest.Digest) provenance.Material {
	return provenance.Material{Kind: provenance.HTTP, Name: url, URI: url, Digest: map[string]string{d.Algorithm().String(): d.Encoded()}}
}
