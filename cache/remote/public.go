package remote

import (
	"encoding/json"
	"net/url"
)

// public are the attributes of caches that say where one is and how it is read; others may
// be credentials. Of those that are addresses, what may be a credential is left out.
var public = map[string]bool{ // whether it is an address
	"ref": false, "src": false, "digest": false, "bucket": false, "region": false, "prefix": false, "blobs_prefix": false,
	"manifests_prefix": false, "name": false, "container": false, "account_name": false, "scope": false, "repository": false,
	"version": false, "use_path_style": false, "registry.insecure": false, "remote-check": false, "store": false,
	"endpoint_url": true, "account_url": true, "url": true, "url_v2": true,
}

// Public returns a frontend's list of caches (cache-imports) as it may be kept and shown:
// without credentials.
func Public(list string) string {
	var entries []Entry
	if json.Unmarshal([]byte(list), &entries) != nil {
		return ""
	}
	for _, e := range entries {
		for k, v := range e.Attrs {
			address, known := public[k]
			switch {
			case !known:
				delete(e.Attrs, k)
			case address:
				e.Attrs[k] = place(v)
			}
		}
	}
	data, err := json.Marshal(entries)
	if err != nil {
		return ""
	}
	return string(data)
}

// place is an address without what may let somebody in.
func place(v string) string {
	u, err := url.Parse(v)
	if err != nil {
		return ""
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
