#!/usr/bin/env bash
# Target web: onnxruntime-web, WebAssembly, in Node. Some 150 MB on disk.
source "$(dirname "$0")/common.bash"
begin web
command -v npm >/dev/null || refuse "web needs Node 18 or later and npm."
npm install --ignore-scripts --no-audit --no-fund --silent --prefix "$WORK" onnxruntime-web@1.30.0
finish 1
