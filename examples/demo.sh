#!/usr/bin/env bash
# Builds a base image and examples/hello with the dbuild given as argument, and runs the
# result. Uses a daemon and state of its own under .demo, which it removes at the end.
set -euo pipefail
dbuild=$(realpath "$1")
cd "$(dirname "$0")/.."
demo=$PWD/.demo
rm -rf "$demo"
mkdir -p "$demo/base"
export DBUILD_HOST=unix://$demo/dbuild.sock
"$dbuild" daemon --root "$demo/state" --addr "$DBUILD_HOST" >"$demo/daemon.log" 2>&1 &
daemon=$!
trap 'kill $daemon; wait $daemon || true; rm -rf "$demo"' EXIT
for _ in $(seq 100); do "$dbuild" debug workers >/dev/null 2>&1 && break; sleep 0.1; done

echo "== a base image from Debian's static busybox"
cp /bin/busybox "$demo/base/busybox"
cat >"$demo/base/Dockerfile" <<'EOF'
FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "-s", "/bin"]
RUN mkdir -p /etc /tmp /root && echo root:x:0:0:root:/root:/bin/sh > /etc/passwd && echo root:x:0: > /etc/group
CMD ["/bin/sh"]
EOF
"$dbuild" -t base "$demo/base"

echo "== examples/hello, built from it"
"$dbuild" -t hello examples/hello

echo "== the same once more: everything is cached"
"$dbuild" -t hello examples/hello

echo "== the image's files, running"
"$dbuild" -q -o "$demo/rootfs" examples/hello
chroot "$demo/rootfs" /bin/cat /srv/greeting.loud /srv/built

echo "== examples/import: a stage exports a tool and its PATH, another imports both"
"$dbuild" -q -o "$demo/import" examples/import
cat "$demo/import/greeting"
