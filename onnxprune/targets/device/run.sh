#!/bin/sh
# On the device: sh run.sh [PROVIDER...], each one of cpu xnnpack nnapi coreml acl armnn; cpu without any.
# With onnxruntime_perf_test beside this script, on the PATH or named by PERF_TEST; else with a Python that has
# onnxruntime, named by PYTHON. Results go to results/; carry the whole folder back and read it with
# `onnxprune time --import FOLDER`.
set -eu
cd "$(dirname "$0")"
[ $# -gt 0 ] || set -- cpu
export LD_LIBRARY_PATH="$PWD${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"

tool=${PERF_TEST:-}
if [ -z "$tool" ] && [ -x ./onnxruntime_perf_test ]; then tool=./onnxruntime_perf_test; fi
if [ -z "$tool" ]; then tool=$(command -v onnxruntime_perf_test || true); fi

mkdir -p results
{
    uname -srm
    if command -v getprop >/dev/null 2>&1; then getprop ro.product.model; getprop ro.soc.model; fi
    grep -m1 -E 'model name|Hardware|Model' /proc/cpuinfo 2>/dev/null || true
} >results/device.txt

for provider in "$@"; do
    if [ ! -d "jobs/$provider" ]; then
        echo "no provider named $provider" >&2
        exit 2
    fi
    out=results/$provider
    rm -rf "$out"
    mkdir -p "$out"
    if [ -n "$tool" ]; then
        round=0
        while [ $round -lt @ROUNDS@ ]; do
            turn=0
            while [ $turn -lt @MODELS@ ]; do
                # Odd rounds go backwards, so that no model always follows the same other one.
                model=$turn
                if [ $((round % 2)) = 1 ]; then model=$((@MODELS@ - 1 - turn)); fi
                "$tool" -e "$provider" -m times -r @RUNS@ -x 1 -y 1 \
                    "models/$model/model.onnx" "$out/$round-$model.csv" >>"$out/log.txt" 2>&1
                turn=$((turn + 1))
            done
            round=$((round + 1))
        done
    else
        rm -f "jobs/$provider/answer.json"
        "${PYTHON:-python3}" worker.py "jobs/$provider" >"$out/log.txt" 2>&1
        mv "jobs/$provider/answer.json" "$out/answer.json"
    fi
    echo "$provider: done"
done
