// Package exportrecord is the form in which an image says what it exports: the value of
// the label dev.dbuild.exports.v1, which IMPORT in a Dockerfile reads. A label survives
// pulls, tags, pushes and copies by other tools, and people see it in docker inspect.
//
// The value is JSON without spaces, its keys sorted, with at most MaxBytes and MaxEntries:
//
//	{"e":[{"dst":"/usr/local/go","src":["/usr/local/go"],"t":"copy"},
//	      {"k":"PATH","t":"env","v":"/usr/local/go/bin:$PATH"}],"v":1}
//
// docs/import-export.md describes the fields for those who write other readers.
package exportrecord
