package s3

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/dbuild/dbuild/exporter"
)

// options are what a request says of a bucket. The names, and what holds without, are
// BuildKit's.
type options struct {
	bucket, region    string
	blobs, configs    string // prefixes of keys
	names             []string
	refresh           time.Duration // what is older is touched when it is needed again
	endpoint          string
	id, secret, token string
	pathStyle         bool
	parallel          int
	unsignedEncoding  bool // Accept-Encoding is not part of the signature
	retryMode         aws.RetryMode
	attempts          int // 0: as many as the SDK likes
}

func parse(a *exporter.Attrs) (options, error) {
	prefix := a.String("prefix")
	o := options{
		bucket:   a.Default("bucket", os.Getenv("AWS_BUCKET")),
		region:   a.Default("region", os.Getenv("AWS_REGION")),
		blobs:    prefix + a.Default("blobs_prefix", "blobs/"),
		configs:  prefix + a.Default("manifests_prefix", "manifests/"),
		names:    strings.Split(a.Default("name", "buildkit"), ";"),
		refresh:  24 * time.Hour,
		endpoint: a.String("endpoint_url"),
		id:       a.String("access_key_id"),
		secret:   a.String("secret_access_key"),
		token:    a.String("session_token"),
	}
	// As with BuildKit, a value of these two that makes no sense is none.
	if d, err := time.ParseDuration(a.String("touch_refresh")); err == nil {
		o.refresh = d
	}
	o.pathStyle, _ = strconv.ParseBool(a.String("use_path_style"))
	o.unsignedEncoding, _ = strconv.ParseBool(a.String("disable_accept_encoding"))

	var errs [2]error
	o.parallel, errs[0] = positive(a, "upload_parallelism", 4)
	o.attempts, errs[1] = positive(a, "retry_max_attempts", 0)
	mode := a.String("retry_mode")
	switch o.retryMode = aws.RetryMode(mode); o.retryMode {
	case "", aws.RetryModeStandard, aws.RetryModeAdaptive:
	default:
		return o, fmt.Errorf("retry_mode is standard or adaptive, not %q", mode)
	}
	switch {
	case o.bucket == "":
		return o, errors.New("no bucket is named (bucket=NAME, or AWS_BUCKET in the environment of the daemon)")
	case o.region == "":
		return o, errors.New("no region is named (region=NAME, or AWS_REGION in the environment of the daemon)")
	}
	return o, cmp.Or(errs[0], errs[1])
}

func positive(a *exporter.Attrs, key string, absent int) (int, error) {
	v := a.Default(key, "")
	if v == "" {
		return absent, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%s=%s is not a positive integer", key, v)
	}
	return n, nil
}
