// Package snapshot keeps results: immutable filesystems whose layers need not be here.
//
// A Ref is a stack of layers, oldest first. A layer is one difference, independent of
// what lies beneath it: its files are an overlay upper directory (whiteouts are
// character devices 0/0, opaque directories carry the overlay xattr) in a directory of
// its own. So the same diff is stored once whatever it is stacked on, layers unpack in
// parallel, Merge is concatenation, and the directory of a finished step can be used
// before anything about it is written to the database.
//
// A layer exists as files, as blobs (one per compression), or as a promise: a
// descriptor and the registry locations that hold it. Turning a promise into a blob
// or files happens when somebody needs them, once, shared by all who wait.
//
// A Draft is a layer being written. A View reads a Ref without mounting it. A Dir is a
// directory that may change: a cache mount, a synced context, a git repository.
//
// # On disk
//
//	dbuild.db     bbolt: containerd's metadata ("v1"), our rows ("snapshot"), and
//	              buckets of other packages
//	content/      containerd's content store
//	snapshots/    directories, as a containerd snapshotter (see driver)
//	work/         mount points and overlay work directories; wiped at Open
//	lock          held while a Store is open
//
// Blobs and directories are kept alive by containerd leases. Whatever is being written
// is held by the lease "work"; a row has a lease of its name that holds what the row
// names. Open drops every lease without a row, with all that only it held.
//
// # Durability
//
// A result exists when the transaction with its layer rows commits; that happens in
// groups, after one syncfs for the files of all layers in the group. Until then it can
// be used but does not survive a crash. A row whose files are missing all the same is a
// miss, never an error.
//
// # Locks
//
// Store.mu is taken before a database transaction and before layer.mu; a transaction may
// take layer.mu and dirState.mu, but never Store.mu. Nothing holds layer.mu across I/O.
package snapshot
