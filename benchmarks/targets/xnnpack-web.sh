#!/usr/bin/env bash
# Target xnnpack-web: the last onnxruntime-web with the XNNPACK provider, WebAssembly, in Node. Some 120 MB on disk.
source "$(dirname "$0")/common.bash"
begin xnnpack-web
command -v npm >/dev/null || refuse "xnnpack-web needs Node 18 or later and npm."
npm install --ignore-scripts --no-audit --no-fund --silent --prefix "$WORK" onnxruntime-web@1.16.3
finish 1
