#!/usr/bin/env bash
# Targets arm64 and arm64-xnnpack: Debian 13 for ARM with its onnxruntime 1.21 (XNNPACK) and the wheel of 1.31, under
# Debian 12's emulator with a plugin that counts instructions. Some 120 MB.
source "$(dirname "$0")/common.bash"
begin arm64
[ "$(uname -m)" = x86_64 ] || refuse "arm64 is emulated on x86-64 only, this machine is $(uname -m)."
command -v cc >/dev/null || refuse "arm64 needs a C compiler (cc) for the plugin that counts instructions."
PYTHON=${PYTHON:-python3}
HERE=$(cd "$(dirname "$0")" && pwd)

debian_root "$WORK/guest" trixie arm64 python3-onnxruntime=1.21.0+dfsg-1 python3-numpy=1:2.2.4+ds-1
# Debian links /lib to /usr/lib when it is installed; onnxruntime asks the processor's description for its features.
ln -s usr/lib "$WORK/guest/lib"
mkdir "$WORK/guest/proc"
cp "$HERE/cpuinfo" "$WORK/guest/proc/cpuinfo"

mkdir "$WORK/downloads" "$WORK/wheels"
"$PYTHON" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.13 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    --dest "$WORK/downloads" onnxruntime==1.31.1 numpy==2.5.5 flatbuffers==25.12.19 packaging==26.3 protobuf==7.36.2
for wheel in "$WORK"/downloads/*.whl; do
    "$PYTHON" -m zipfile -e "$wheel" "$WORK/wheels"
done
rm -rf "$WORK/downloads"

# Newer emulators of Debian are linked statically and load no plugins.
debian_root "$WORK/emulator" bookworm amd64 qemu-user
cc -O2 -shared -fPIC -ffreestanding -nostdlib -Wall -Wextra -o "$WORK/count.so" "$HERE/count.c"
finish 1
