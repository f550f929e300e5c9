// Package registry speaks to image registries: it resolves references, opens blobs,
// and pushes them, mounting across repositories where it can. Credentials come from
// whichever client of a session group can give them.
package registry

// A Location is a repository that holds a blob: "docker.io/library/alpine".
type Location struct {
	Repo string `json:"repo"`
	// Insecure says that whoever named the repository accepts any certificate, or none.
	Insecure bool `json:"insecure,omitempty"`
}
