// Package rpcerror turns errors into what BuildKit's clients decode: a gRPC status with a
// code, one message, and payloads for machines, which are JSON within Any.
package rpcerror
