// Package snapshot keeps results: immutable filesystems whose layers need not be here.
//
// A Ref is a stack of Layers, oldest first. A Layer is one difference, independent of
// what lies beneath it: its files are an overlay upper directory (whiteouts are
// character devices 0/0, opaque directories carry the overlay xattr), kept in a
// containerd snapshot that has no parent. So the same diff is stored once whatever it
// is stacked on, layers unpack in parallel, Merge is concatenation, and the directory
// of a finished step can be used before anything about it is written to the database.
//
// A Layer exists as files, as blobs (one per compression), or as a promise: a
// descriptor and the registry locations that hold it. Turning a promise into a blob
// or files happens when somebody needs them, once, shared by all who wait.
//
// A Draft is a layer being written. A View reads a Ref without mounting it. A Dir is a
// directory that may change: a cache mount, a synced context, a git repository.
//
// # Durability
//
// One bbolt file holds containerd's metadata and our rows. A result exists when the
// transaction with its layer rows commits; that happens in groups, after the files
// have reached the disk. Until then it can be used but does not survive a crash.
// Everything on disk that no row names is swept when the store is opened.
package snapshot
