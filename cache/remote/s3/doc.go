// Package s3 keeps caches in buckets of Amazon S3, and of what speaks its protocol, where
// BuildKit keeps them:
//
//	PREFIX BLOBS_PREFIX     DIGEST   a layer
//	PREFIX MANIFESTS_PREFIX NAME     a config, once for each name
//
// The prefixes are put together as they are, without slashes between them.
//
// Credentials are those of the request, or what the SDK finds where the daemon runs. They
// are kept nowhere.
package s3
