package runc

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	pkcs12 "software.sslmate.com/src/go-pkcs12"
)

// proxyFiles is where a process finds the files that its programs trust. /dev is a file system
// of each container's own: nothing is left in an image.
const proxyFiles = "/dev/dbuild-proxy"

const (
	bundleFile = "ca.pem" // what the image trusts, and the proxy
	javaFile   = "ca.p12" // the proxy
	// javaPassword is what Java wants to have for any trust store.
	javaPassword = "changeit"
)

// writeFiles writes the files for programs that do not look at the system's bundle.
func (x *proxied) writeFiles() error {
	if err := os.MkdirAll(filepath.Dir(x.dir), 0o700); err != nil {
		return err
	}
	if err := os.Mkdir(x.dir, 0o755); err != nil {
		return err
	}
	bundle := slices.Concat(x.trust.Bundle(), []byte("\n"), x.server.PEM())
	if err := writeShared(filepath.Join(x.dir, bundleFile), bundle); err != nil {
		return err
	}
	store, err := pkcs12.Modern.EncodeTrustStore([]*x509.Certificate{x.server.CA()}, javaPassword)
	if err != nil {
		return fmt.Errorf("trust store for Java: %w", err)
	}
	return writeShared(filepath.Join(x.dir, javaFile), store)
}

// proxyVars are where programs look for a proxy, noProxyVars for what is not asked of it.
var (
	proxyVars   = []string{"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"}
	noProxyVars = []string{"NO_PROXY", "no_proxy"}
)

// noProxy are the names of the container itself.
const noProxy = "localhost,127.0.0.1,::1"

// proxiedEnv is the environment of a process that has a proxy. Where the proxy is, is not for
// the process to say; whom it trusts is.
func proxiedEnv(env []string) []string {
	env = slices.DeleteFunc(slices.Clone(env), func(e string) bool {
		name, _, _ := strings.Cut(e, "=")
		return slices.Contains(proxyVars, name) || slices.Contains(noProxyVars, name)
	})
	for _, name := range proxyVars {
		env = append(env, name+"=http://"+proxyAddr)
	}
	for _, name := range noProxyVars {
		env = append(env, name+"="+noProxy)
	}
	bundle := filepath.Join(proxyFiles, bundleFile)
	for _, e := range [][2]string{
		{"SSL_CERT_FILE", bundle},            // OpenSSL, Go, Ruby
		{"CURL_CA_BUNDLE", bundle},           // curl
		{"REQUESTS_CA_BUNDLE", bundle},       // Python's requests
		{"PIP_CERT", bundle},                 // pip
		{"NODE_EXTRA_CA_CERTS", bundle},      // Node
		{"NODE_USE_ENV_PROXY", "1"},          // Node's fetch, which else ignores proxies
		{"CARGO_HTTP_CAINFO", bundle},        // cargo
		{"GIT_SSL_CAINFO", bundle},           // git
		{"AWS_CA_BUNDLE", bundle},            // AWS
		{"JAVA_TOOL_OPTIONS", javaOptions()}, // Java knows none of the variables of others
	} {
		if !slices.ContainsFunc(env, func(have string) bool { return strings.HasPrefix(have, e[0]+"=") }) {
			env = append(env, e[0]+"="+e[1])
		}
	}
	return env
}

func javaOptions() string {
	var out []string
	host, port, _ := strings.Cut(proxyAddr, ":")
	for _, o := range [][2]string{
		{"http.proxyHost", host}, {"http.proxyPort", port}, {"https.proxyHost", host}, {"https.proxyPort", port},
		{"javax.net.ssl.trustStore", filepath.Join(proxyFiles, javaFile)},
		{"javax.net.ssl.trustStoreType", "PKCS12"}, {"javax.net.ssl.trustStorePassword", javaPassword},
	} {
		out = append(out, "-D"+o[0]+"="+o[1])
	}
	return strings.Join(out, " ")
}
