#!/bin/sh
# From a computer with adb: sh adb.sh [PROVIDER...]. Put onnxruntime_perf_test, built for the phone, and the libraries
# it needs into this folder first.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
there=/data/local/tmp/onnxprune-bundle
[ -e "$here/onnxruntime_perf_test" ] || { echo "put onnxruntime_perf_test into $here first" >&2; exit 2; }
adb shell rm -rf "$there"
adb push "$here" "$there"
adb shell chmod 755 "$there/onnxruntime_perf_test"
adb shell sh "$there/run.sh" "$@"
rm -rf "$here/results"
adb pull "$there/results" "$here/results"
adb shell rm -rf "$there"
