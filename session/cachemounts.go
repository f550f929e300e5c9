package session

// CacheMountsHeader is metadata of a Solve call: a JSON object of directories on the
// daemon's machine that take the place of cache mounts, by the ids of those.
const CacheMountsHeader = "dbuild-cache-mounts-bin"
