#!/usr/bin/env bash
# Target xnnpack: Debian 13's onnxruntime is built with the XNNPACK provider, which the wheels are not. Some 50 MB.
source "$(dirname "$0")/common.bash"
begin xnnpack
[ "$(uname -m)" = x86_64 ] || refuse "xnnpack is set up on x86-64 only, this machine is $(uname -m)."
debian_root "$WORK" trixie amd64 python3-onnxruntime=1.21.0+dfsg-1 python3-numpy=1:2.2.4+ds-1
finish 1
