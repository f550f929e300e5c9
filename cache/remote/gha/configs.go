package gha

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	actionscache "github.com/tonistiigi/go-actions-cache"
)

// indexKey begins the keys of the configs of a branch. Numbers follow.
func (c *Cache) indexKey(branch string) string {
	return "index-" + c.opts.scope + "-1-" + digest.FromString(branch).Encoded()[:8] + "#"
}

// Configs implements remote.Objects.
func (c *Cache) Configs(ctx context.Context, limit int64) (all [][]byte, err error) {
	api, err := c.service()
	if err != nil {
		return nil, err
	}
	for _, s := range api.Scopes() {
		e, err := c.load(ctx, c.indexKey(s.Scope))
		if err != nil {
			return nil, err
		}
		if e == nil {
			continue
		}
		data, err := c.readAll(ctx, e, limit)
		if err != nil {
			return nil, err
		}
		all = append(all, data)
	}
	return all, nil
}

// takenWait is between looks at a number that somebody else has taken.
const takenWait = 2 * time.Second

// PutConfig implements remote.Objects. The client's own SaveMutable takes an upload that
// failed for one that succeeded.
func (c *Cache) PutConfig(ctx context.Context, data []byte) error {
	api, err := c.service()
	if err != nil {
		return err
	}
	branch, may := "", false
	for _, s := range api.Scopes() {
		if s.Permission&actionscache.PermissionWrite != 0 {
			branch, may = s.Scope, true
		}
	}
	if !may {
		return fmt.Errorf("%s: the token may only read; write caches in workflows of the repository's own branches", c)
	}
	key := c.indexKey(branch)
	taken := 0 // numbers that others have taken and not finished
	for begun := time.Now(); ; {
		last, err := c.last(ctx, key)
		if err != nil {
			return err
		}
		err = api.Save(ctx, key+strconv.Itoa(last+taken+1), actionscache.NewBlob(data))
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrExist) {
			return c.explain(err)
		}
		if time.Since(begun) >= c.patience {
			taken++
			continue
		}
		select {
		case <-time.After(takenWait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// last returns the number of the newest config, or 0.
func (c *Cache) last(ctx context.Context, key string) (int, error) {
	e, err := c.load(ctx, key)
	if e == nil || err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimPrefix(e.Key, key))
	if err != nil {
		return 0, fmt.Errorf("%s: the service has a config with the key %q, which should end with a number", c, e.Key)
	}
	return n, nil
}
