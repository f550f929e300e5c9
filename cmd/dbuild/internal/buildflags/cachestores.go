package buildflags

import (
	"context"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
)

// setDefault sets an attribute that was not given to the first of some variables that is set.
func (e Env) setDefault(attrs map[string]string, attr string, names ...string) {
	if _, given := attrs[attr]; given {
		return
	}
	for _, n := range names {
		if v, ok := e.Lookup(n); ok && v != "" {
			attrs[attr] = v
			return
		}
	}
}

// actionsCache takes from the environment of a step of a workflow what its cache needs, as
// buildx does, and reports whether that is enough.
func actionsCache(attrs map[string]string, env Env) bool {
	version, given := attrs["version"]
	if on, err := strconv.ParseBool(env.get("ACTIONS_CACHE_SERVICE_V2")); !given && err == nil && on {
		version = "2"
	}
	env.setDefault(attrs, "token", "ACTIONS_RUNTIME_TOKEN")
	if version == "2" {
		env.setDefault(attrs, "url_v2", "ACTIONS_RESULTS_URL")
	}
	env.setDefault(attrs, "url", "ACTIONS_CACHE_URL", "ACTIONS_RESULTS_URL")
	return attrs["token"] != "" && (attrs["url"] != "" || attrs["url_v2"] != "")
}

// credentialsTimeout bounds how long the command looks for credentials of AWS.
const credentialsTimeout = 10 * time.Second

// bucketCache takes from the environment what a cache in a bucket needs: the daemon may be
// elsewhere, with other credentials or none.
func bucketCache(attrs map[string]string, env Env) {
	env.setDefault(attrs, "bucket", "AWS_BUCKET")
	env.setDefault(attrs, "region", "AWS_REGION")
	_, id := attrs["access_key_id"]
	_, secret := attrs["secret_access_key"]
	if id && secret {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), credentialsTimeout)
	defer cancel()
	// What the machine itself may do is the daemon's to find out, where it runs.
	cfg, err := config.LoadDefaultConfig(ctx, config.WithEC2IMDSClientEnableState(imds.ClientDisabled))
	if err != nil {
		return // the daemon says what is missing
	}
	found, err := cfg.Credentials.Retrieve(ctx)
	if err != nil {
		return
	}
	set := func(attr string, v string) {
		if _, given := attrs[attr]; !given && v != "" {
			attrs[attr] = v
		}
	}
	set("access_key_id", found.AccessKeyID)
	set("secret_access_key", found.SecretAccessKey)
	set("session_token", found.SessionToken)
}
