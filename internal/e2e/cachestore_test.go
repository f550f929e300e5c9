package e2e

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dbuild/dbuild/cache/remote/objectstest"
	"github.com/rogpeppe/go-internal/testscript"
)

// A cacheStore is a fake of a store of objects, and how a cache in it is named.
type cacheStore struct {
	*objectstest.Server
	flag string // of the cache NAME
	blob string // a request for a layer
}

func newCacheStore(kind string) *cacheStore {
	keys := fmt.Sprintf(",access_key_id=%s,secret_access_key=%s", objectstest.KeyID, objectstest.Secret)
	switch kind {
	case "s3":
		s := objectstest.NewS3()
		flag := fmt.Sprintf("type=s3,bucket=%s,region=%s,use_path_style=true,endpoint_url=%s,name=NAME", objectstest.Bucket, objectstest.Region, s.URL)
		return &cacheStore{s, flag + keys, "GET /" + objectstest.Bucket + "/.*sha256"}
	case "azblob":
		s := objectstest.NewAzure()
		flag := fmt.Sprintf("type=azblob,account_url=%s/%s,account_name=%s,secret_access_key=%s,name=NAME", s.URL, objectstest.Account, objectstest.Account, objectstest.Secret)
		return &cacheStore{s, flag, "GET /" + objectstest.Account + "/.*sha256"}
	case "gha1", "gha2":
		s := objectstest.NewGHA()
		version := strings.TrimPrefix(kind, "gha")
		flag := fmt.Sprintf("type=gha,url=%s/,version=%s,token=%s,scope=NAME", s.URL, version, objectstest.Token())
		if version == "2" {
			flag += ",url_v2=" + s.URL
		}
		return &cacheStore{s, flag, "GET /blobs/.*sha256"}
	}
	return nil
}

// cmdCacheStore starts a fake of a store of objects, s3, azblob, gha1 or gha2, and sets KIND to
// what flags say of a cache in it, and KIND_anonymous to that without keys: cachestore KIND.
//
// Later it does something to that: cachestore KIND VERB ARG ...
//
//	reads N              layers have been read since this was asked last; >N too
//	asked PATTERN N      requests, "METHOD PATH?QUERY", have matched since then
//	fail STATUS PATTERN TIMES, cut PATTERN TIMES    requests that match fail, or their answers end early
//	flip PATTERN, lose PATTERN                      objects whose keys match are damaged or gone
func cmdCacheStore(ts *testscript.TestScript, neg bool, args []string) {
	s := get(ts)
	if len(args) == 1 && !neg {
		c := newCacheStore(args[0])
		if c == nil {
			ts.Fatalf("cachestore: there are s3, azblob, gha1 and gha2")
		}
		ts.Defer(c.Close)
		s.stores[args[0]] = c
		flag := strings.ReplaceAll(c.flag, "NAME", "it")
		ts.Setenv(args[0], flag)
		anonymous, _, _ := strings.Cut(flag, ",access_key_id=")
		ts.Setenv(args[0]+"_anonymous", anonymous)
		return
	}
	c := s.stores[args[0]]
	if c == nil || neg {
		ts.Fatalf("usage: cachestore KIND, and then cachestore KIND VERB ARG ...")
	}
	number := func(i int) int {
		n, err := strconv.Atoi(strings.TrimPrefix(args[i], ">"))
		ts.Check(err)
		return n
	}
	counted := func(pattern string, i int) {
		got, want, log := c.Count(pattern), number(i), c.Log()
		c.Forget()
		if ok := got == want; !ok && !(args[i][0] == '>' && got > want) {
			ts.Fatalf("%s: %d requests match %s, want %s:\n%s", args[0], got, pattern, args[i], strings.Join(log, "\n"))
		}
	}
	switch args[1] {
	case "reads":
		counted(c.blob, 2)
	case "asked":
		counted(args[2], 3)
	case "fail":
		c.Fail(args[3], number(4), number(2), "")
	case "cut":
		c.Cut(args[2], number(3))
	case "flip":
		if c.Flip(args[2]) == 0 {
			ts.Fatalf("nothing is called %s in %v", args[2], c.Keys())
		}
	case "lose":
		if c.Lose(args[2]) == 0 {
			ts.Fatalf("nothing is called %s in %v", args[2], c.Keys())
		}
	default:
		ts.Fatalf("cachestore: unknown verb %s", args[1])
	}
}

// in makes caches of an interop such as are in a store of objects.
func (c *cacheStore) in(i *interop) {
	i.at = func(whose, mode string) string {
		return strings.ReplaceAll(c.flag, "NAME", fmt.Sprintf("%s-%s-%s", whose, i.dir, mode)) + ",mode=" + mode
	}
	i.gets = func() []string {
		n := c.Count(c.blob)
		log := c.Log()
		c.Forget()
		if n == 0 {
			return nil
		}
		return log
	}
}
