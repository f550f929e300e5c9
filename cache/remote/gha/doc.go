// Package gha keeps caches in the cache service of GitHub Actions, under the keys that
// BuildKit has for them:
//
//	buildkit-blob-1-DIGEST    a layer
//	index-SCOPE-1-BRANCH#N    a config; of several the one with the largest N counts
//
// BRANCH stands for a branch, or whatever else the token of a workflow may read: all are read,
// and the one that the token may write is written. What is stored under a key never changes.
//
// The token is that of the request. It is kept nowhere, and neither are the signed addresses
// of blobs, which errors of the client would repeat.
package gha
