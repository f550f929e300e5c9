package main

import (
	"context"
	"encoding/json"

	"github.com/dbuild/dbuild/session"
	grpcmetadata "google.golang.org/grpc/metadata"
)

// lendCacheDirs tells the daemon which directories stand for cache mounts. They go beside
// the request, not in it: where they are is not part of what is built.
func lendCacheDirs(ctx context.Context, d *daemonConn, dirs map[string]string) (context.Context, error) {
	if len(dirs) == 0 {
		return ctx, nil
	}
	if !d.ours() {
		return nil, usagef("--cache-mount: the daemon at %s is not dbuild's; it cannot use directories of this machine", d.addr.url)
	}
	b, err := json.Marshal(dirs)
	if err != nil {
		return nil, err
	}
	return grpcmetadata.AppendToOutgoingContext(ctx, session.CacheMountsHeader, string(b)), nil
}
