#!/bin/sh
# Asks a stock buildkitd, which it starts, what it makes of the given cases.
#
#	testdata/dockerfile/golden/run.sh TOOLS CASE.txtar...
#
# Wants docker-registry and skopeo, and buildkitd in the directory TOOLS. Runs as root.
set -eu
tools=$1
shift
dir=$(mktemp -d)
pids=
trap 'kill $pids 2>/dev/null; wait; rm -rf "$dir"' EXIT

cat >"$dir/registry.yml" <<YML
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $dir/registry}}
http: {addr: "127.0.0.1:5731"}
YML
docker-registry serve "$dir/registry.yml" >"$dir/registry.log" 2>&1 &
pids=$!
"$tools/buildkitd" --root "$dir/state" --addr "unix://$dir/d.sock" --oci-worker-gc=false >"$dir/buildkitd.log" 2>&1 &
pids="$pids $!"

go build -o "$dir/golden" ./testdata/dockerfile/golden
"$dir/golden" -images "$dir/images" >"$dir/names"
until skopeo list-tags --tls-verify=false docker://localhost:5731/none 2>&1 | grep -q 404; do sleep 0.1; done
while read -r name; do
	skopeo copy -q --all --dest-tls-verify=false "oci:$dir/images:$name" "docker://localhost:5731/$name"
done <"$dir/names"
"$dir/golden" -addr "unix://$dir/d.sock" -layout "$dir/images" "$@"
