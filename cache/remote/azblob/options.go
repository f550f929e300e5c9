package azblob

import (
	"cmp"
	"errors"
	"net/url"
	"os"
	"path"
	"strings"

	"github.com/dbuild/dbuild/exporter"
)

// options are what a request says of a container. The names, and what holds without, are
// BuildKit's.
type options struct {
	account        string // its URL, which may have a signature
	host           string
	name, key      string // of the account
	container      string
	blobs, configs string // directories of keys
	names          []string
}

// inEnv begins the names of variables of the daemon's environment.
const inEnv = "BUILDKIT_AZURE_STORAGE_"

func parse(a *exporter.Attrs) (options, error) {
	o := options{
		account:   a.Default("account_url", os.Getenv(inEnv+"ACCOUNT_URL")),
		name:      a.Default("account_name", os.Getenv(inEnv+"ACCOUNT_NAME")),
		key:       a.String("secret_access_key"),
		container: a.Default("container", cmp.Or(os.Getenv(inEnv+"CONTAINER"), "buildkit-cache")),
		names:     strings.Split(a.Default("name", "buildkit"), ";"),
	}
	prefix := a.Default("prefix", os.Getenv(inEnv+"PREFIX"))
	o.blobs = path.Join(prefix, a.Default("blobs_prefix", "blobs"))
	o.configs = path.Join(prefix, a.Default("manifests_prefix", "manifests"))
	if o.account == "" {
		return o, errors.New("no account is named (account_url=https://ACCOUNT.blob.core.windows.net, or " + inEnv + "ACCOUNT_URL in the environment of the daemon)")
	}
	u, err := url.Parse(o.account)
	if err != nil || u.Host == "" {
		return o, errors.New("account_url is not a URL such as https://ACCOUNT.blob.core.windows.net")
	}
	o.host = u.Host
	if o.name == "" {
		o.name, _, _ = strings.Cut(u.Hostname(), ".")
	}
	return o, nil
}
