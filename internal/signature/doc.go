// Package signature checks that content was signed by whom a build trusts: detached
// OpenPGP signatures of downloads, and the signatures, OpenPGP or SSH, in git's commits and
// tags. What is too weak to prove anything, such as SHA-1 or short RSA keys, is refused.
//
// Errors use the words by which clients know them.
package signature
