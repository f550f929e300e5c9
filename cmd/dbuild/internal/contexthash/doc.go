// Package contexthash names build contexts by what is in them: the same files give the same
// digest wherever, whenever and by whomever they were checked out.
//
// docs/context-hash.md has the format, so that others can compute it.
package contexthash
