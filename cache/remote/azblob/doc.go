// Package azblob keeps caches in containers of Azure Blob Storage, where BuildKit keeps them:
//
//	PREFIX/BLOBS_PREFIX/DIGEST    a layer
//	PREFIX/MANIFESTS_PREFIX/NAME  a config, once for each name
//
// A container that is not there is made when a cache is written.
//
// Credentials are the account's key, if the request has it, or what the SDK finds where the
// daemon runs. They are kept nowhere.
package azblob
