#!/bin/sh
# From a computer with ssh: sh ssh.sh [USER@]HOST [PROVIDER...]. The board needs a Python with numpy and onnxruntime, or
# onnxruntime_perf_test in this folder.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || { echo "usage: sh ssh.sh [USER@]HOST [PROVIDER...]" >&2; exit 2; }
host=$1
shift
there=$(ssh "$host" mktemp -d)
scp -qr "$here/." "$host:$there"
ssh "$host" sh "$there/run.sh" "$@"
rm -rf "$here/results"
scp -qr "$host:$there/results" "$here/results"
ssh "$host" rm -rf "$there"
