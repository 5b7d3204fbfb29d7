#!/bin/sh
# kv-cache.sh: what `make example-kv-cache` does. Runs examples/kv_cache on this machine's GPU, or, where there is none, on
# the fake driver of the tests, and draws the chart.
#
#   tools/kv-cache.sh [arguments of kv_cache…]
#
# Environment: BUILD (build), OUT (BUILD/kv_cache: where kv_cache.csv and kv_cache.png go).
set -eu
cd "$(dirname "$0")/.."
build=${BUILD:-build}
out=${OUT:-$build/kv_cache}
mkdir -p "$out"

. tools/gpu-driver.sh
title="$gpu_driver_text"
echo "kv_cache: $title"

LD_LIBRARY_PATH=$build "$build/examples/kv_cache" --csv "$out/kv_cache.csv" "$@"
tools/ensure.sh /usr/bin/python3:python3 /usr/lib/python3/dist-packages/matplotlib/__init__.py:python3-matplotlib
PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 examples/kv_cache/chart.py "$out/kv_cache.csv" "$out/kv_cache.png" "$title"
echo "kv_cache: figures in $out/kv_cache.csv, chart in $out/kv_cache.png"
